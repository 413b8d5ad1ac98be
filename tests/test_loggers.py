"""Loggers: what they are given, what their files hold, and that none of them can end a run."""

import csv
import json
import sys
import warnings

import jax
import numpy as np
import pytest
from training_runs import tiny

import jaxpg
from jaxpg import loggers


@pytest.fixture(scope="module")
def algorithm():
    return tiny()


@pytest.fixture
def train(algorithm, key):
    """train(loggers, …): 200 steps of the tiny algorithm."""

    def play(*used, **options):
        options = {"num_env_steps": 200, "evaluate_every": 60, "evaluation_episodes": 4, "progress": False, **options}
        return jaxpg.train(algorithm, key, loggers=used, **options)

    return play


class Remember:
    """A user's logger."""

    def __init__(self):
        self.rows, self.closed, self.resumed = [], 0, []

    def log(self, metrics, step):
        assert all(type(value) is float for value in metrics.values()) and type(step) is int
        self.rows.append((step, metrics))

    def resume(self, step):
        self.resumed.append(step)

    def close(self):
        self.closed += 1


def test_every_update_is_logged_with_its_steps_and_what_is_missing_is_left_out(train):
    logger, other = Remember(), Remember()
    result = train(logger, other)
    history, evaluations = result.history, result.evaluations
    assert [step for step, _ in logger.rows] == history["total_env_steps"].tolist()
    for i, (_, metrics) in enumerate(logger.rows):
        assert metrics["update"] == i + 1
        for name, values in history.items():
            if np.isnan(values[i]):
                assert name not in metrics
            else:
                assert metrics[name] == values[i]
    assert np.isnan(history["episode_return"]).any()
    evaluated = {
        m["update"]: m["evaluation/episode_return"] for _, m in logger.rows if "evaluation/episode_return" in m
    }
    assert evaluated == dict(zip(evaluations["update"], evaluations["episode_return"]))
    assert other.rows == logger.rows and logger.closed == other.closed == 1 and not logger.resumed


def test_json_lines_and_csv_hold_every_number(train, tmp_path):
    result = train(loggers.jsonl(tmp_path / "a" / "m.jsonl"), loggers.csv(str(tmp_path / "m.csv")))
    lines = [json.loads(line) for line in (tmp_path / "a" / "m.jsonl").read_text().splitlines()]
    with (tmp_path / "m.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert len(lines) == len(rows) == result.num_updates
    for i, (line, row) in enumerate(zip(lines, rows)):
        assert line["step"] == int(row["step"]) == result.history["total_env_steps"][i]
        value = result.history["episode_return"][i]
        if np.isnan(value):
            assert "episode_return" not in line and row["episode_return"] == ""
        else:
            assert np.float32(line["episode_return"]) == np.float32(row["episode_return"]) == value
    # The evaluations' column came with the first evaluation: lines before have it empty.
    first = result.evaluations["update"][0]
    assert rows[0]["evaluation/episode_return"] == "" and float(rows[first - 1]["evaluation/episode_return"]) >= 0


def test_csv_columns_that_appear_later_lose_nothing(tmp_path):
    path = tmp_path / "m.csv"
    logger = loggers.csv(path)
    logger.log({"a": 1.5}, 1)
    logger.log({"b": 2.5}, 2)
    logger.log({"a": 0.1, "c, d": 3.0}, 3)
    assert path.read_text() == 'step,a,b,"c, d"\n1,1.5,,\n2,,2.5,\n3,0.1,,3.0\n'
    again = loggers.csv(path)  # Another process goes on.
    again.log({"b": 1.0, "e": 2.0}, 4)
    assert path.read_text().splitlines() == ['step,a,b,"c, d",e', "1,1.5,,,", "2,,2.5,,", "3,0.1,,3.0,", "4,,1.0,,2.0"]


@pytest.mark.parametrize("make", [loggers.jsonl, loggers.csv])
def test_files_are_added_to_and_torn_lines_end(make, tmp_path):
    path = tmp_path / "m"
    make(path).log({"a": 1.0}, 1)
    before = path.read_bytes()
    path.write_bytes(before + before.splitlines(keepends=True)[-1][:3])  # A process was killed while it wrote.
    torn = path.read_bytes()
    make(path).log({"a": 2.0}, 2)
    assert path.read_bytes().startswith(torn + b"\n") and len(path.read_bytes().splitlines()) == before.count(b"\n") + 2
    path.write_bytes(torn)
    make(path).resume(1)  # The run goes on: it writes the line again.
    assert path.read_bytes() == before


@pytest.mark.parametrize("make", [loggers.jsonl, loggers.csv])
def test_a_resumed_run_logs_each_update_once(train, make, tmp_path):
    train(make(tmp_path / "whole"))

    def fail(block):
        if block["total_env_steps"][-1] > 100:
            raise KeyboardInterrupt

    options = {"directory": tmp_path / "run", "checkpoint_every": 40}
    train(make(tmp_path / "log"), callback=fail, **options)
    remember = Remember()
    result = train(make(tmp_path / "log"), remember, **options)
    assert result.num_updates > len(remember.rows) > 0 and len(remember.resumed) == 1
    assert (tmp_path / "log").read_bytes() == (tmp_path / "whole").read_bytes()


def test_tensorboard_reads_what_was_logged(train, tmp_path):
    pytest.importorskip("tensorboardX")
    from tensorboardX.event_file_writer import EventsWriter  # noqa: F401
    from tensorboardX.proto import event_pb2

    result = train(loggers.tensorboard(tmp_path))
    (file,) = tmp_path.iterdir()
    data, found = file.read_bytes(), []
    while data:  # TFRecords: length, its checksum, the record, its checksum.
        size = int.from_bytes(data[:8], "little")
        event = event_pb2.Event.FromString(data[12 : 12 + size])
        found += [(event.step, value.tag, value.simple_value) for value in event.summary.value]
        data = data[16 + size :]
    returns = [(step, value) for step, tag, value in found if tag == "episode_return"]
    keep = ~np.isnan(result.history["episode_return"])
    assert [step for step, _ in returns] == result.history["total_env_steps"][keep].tolist()
    np.testing.assert_allclose([value for _, value in returns], result.history["episode_return"][keep])


def test_tensorboard_names_what_to_install(monkeypatch, tmp_path):
    monkeypatch.setitem(sys.modules, "tensorboardX", None)
    with pytest.raises(ImportError, match="pip install tensorboardX"):
        loggers.tensorboard(tmp_path)


def test_wandb_by_duck_typing(train):
    class Run:
        rows = []  # noqa: RUF012

        def log(self, data, step=None):
            self.rows.append((step, data))

    run = Run()
    result = train(loggers.wandb(run))
    assert [step for step, _ in run.rows] == result.history["total_env_steps"].tolist()
    with pytest.raises(TypeError, match="wandb.init"):
        loggers.wandb("project")


def test_a_logger_that_fails_is_named_once_and_the_run_goes_on(train, tmp_path):
    class Broken(Remember):
        def log(self, metrics, step):
            raise ConnectionError("no network")

        def close(self):
            raise ValueError("still none")

    logger = Remember()
    with pytest.warns(RuntimeWarning) as caught:
        result = train(Broken(), logger)
    assert [str(w.message) for w in caught if "logger" in str(w.message)] == [
        "the logger Broken failed in log: ConnectionError: no network; the run goes on, further errors of it are not "
        "shown"
    ]
    assert result.stopped == "budget" and len(logger.rows) == result.num_updates and logger.closed == 1


def test_loggers_change_no_number(train):
    one = train(Remember())
    other = train()
    jax.tree.map(np.testing.assert_array_equal, one.params, other.params)


def test_bad_paths_fail_before_the_run(tmp_path):
    (tmp_path / "file").write_text("update,loss\n1,2\n")
    for make in (loggers.jsonl, loggers.csv, loggers.tensorboard):
        with pytest.raises(TypeError, match="path|directory"):
            make(3)
    for make in (loggers.jsonl, loggers.csv):
        with pytest.raises(OSError):
            make(tmp_path / "file" / "m")
    with pytest.raises(ValueError, match="not written by this logger"):
        loggers.csv(tmp_path / "file")
    assert (tmp_path / "file").read_text() == "update,loss\n1,2\n"


def test_no_warning_where_nothing_is_wrong(train, tmp_path):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        train(Remember(), loggers.csv(tmp_path / "m.csv"), loggers.jsonl(tmp_path / "m.jsonl"))
