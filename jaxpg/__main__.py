"""`python -m jaxpg` is the `jaxpg` command."""

if __name__ == "__main__":
    from jaxpg.cli import main

    raise SystemExit(main())
