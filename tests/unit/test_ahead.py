"""One process makes the files of planned jobs of its kind; these jobs find them, and no job finds another's."""

import os
from pathlib import Path
from types import SimpleNamespace

import pytest

from r2a import ahead, engine, plan
from r2a.ahead import run
from r2a.plan import PLAN, companions, write_plan
from waiting import wait_until

pytestmark = pytest.mark.usefixtures("_folder")
INPUTS = {"a": "1", "b": "2", "c": "3"}


@pytest.fixture
def _folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(engine, "may_start", True)  # which is False once a process has made other jobs' files
    for name, text in INPUTS.items():
        Path(name).write_text(text)


def job(name, script="score_heads", inputs=None, factor=2, model=None, is_timed=True):
    """A job as Snakemake's main process has it, and as its script gets it."""
    from snakemake.iocontainers import Namedlist

    return SimpleNamespace(
        rule=SimpleNamespace(script=f"../scripts/{script}.py"),
        is_local=True,
        benchmark=f"benchmarks/{name}.tsv" if is_timed else None,
        input=Namedlist(fromdict={"number": inputs or name}),
        output=Namedlist(fromdict={"product": f"{name}.out", "square": f"{name}.square"}),
        log=[f"logs/{name}.log"],
        params=Namedlist(fromdict={"settings": {"factor": factor}}),
        wildcards=Namedlist(fromdict={"model": model} if model else {}),
        resources=Namedlist(fromdict={"gpus_needed": 0, "gpu": 0} if model else {}),
    )


def planned(*jobs):
    write_plan(jobs)
    let_clock_tick()
    return jobs


def let_clock_tick():
    """Wait until what is written is newer than what was written before, by the file system's clock."""
    clock = Path("clock")
    clock.touch()
    before = clock.stat().st_mtime_ns
    wait_until(lambda: clock.touch() or clock.stat().st_mtime_ns > before)


class Main:
    """A script's main that counts its calls."""

    def __init__(self):
        self.calls = []

    def __call__(self, snakemake):
        self.calls.append(snakemake.output[0])
        number = int(Path(snakemake.input.number).read_text())
        Path(snakemake.output.product).write_text(str(number * snakemake.params.settings["factor"]))
        if number < 0:
            raise ValueError("negative")
        Path(snakemake.output.square).write_text(str(number**2))


def start(main, job):
    """Do what Snakemake does before it starts a job's script, and run the script."""
    for path in (*job.output, *job.log):
        Path(path).unlink(missing_ok=True)
    run(main, job)


def left_behind():
    return sorted(path.name for path in Path().rglob("*") if path.name.endswith((".ahead", ".json"))) != [PLAN.name]


def test_a_job_finds_the_files_and_the_log_that_another_made_for_it():
    a, b, c = planned(job("a"), job("b"), job("c"))
    main = Main()
    start(main, a)
    assert main.calls == ["a.out", "b.out", "c.out"]
    assert not Path("b.out").exists() and not Path("logs/b.log").exists()  # Snakemake has not started b
    start(main, b)
    start(main, c)
    assert len(main.calls) == 3
    assert [Path(f"{name}.out").read_text() for name in "abc"] == ["2", "4", "6"]
    assert [Path(f"{name}.square").read_text() for name in "abc"] == ["1", "4", "9"]
    assert Path("logs/b.log").exists() and not left_behind()


@pytest.mark.parametrize("earlier", ["log", "files made ahead"])
def test_a_job_that_has_ended_is_not_made_again_whatever_an_earlier_run_left(earlier):
    Path("logs").mkdir()
    Path("logs/b.log").touch()  # and this job logs nothing
    Path("c").rename("later")
    a, b, c = planned(job("a"), job("b"), job("c"))
    main = Main()
    start(main, a)
    if earlier == "files made ahead":
        let_clock_tick()
        planned(b, c)
    start(main, b)
    Path("later").rename("c")
    start(main, c)
    assert main.calls == ["a.out", "b.out", "c.out"] and Path("b.out").exists()


def test_a_process_of_an_earlier_run_does_not_make_again_what_had_ended_in_it(monkeypatch):
    """While it reads its plan, the next run writes one without the jobs that have ended."""
    a, b, c = planned(job("a"), job("b"), job("c"))
    Path("c").rename("later")
    main = Main()
    start(main, a)
    start(main, b)
    Path("later").rename("c")
    read = plan._read

    def read_and_restarted(*job):
        planned(c)
        return read(*job)

    monkeypatch.setattr(plan, "_read", read_and_restarted)
    assert [one.output[0] for one in companions("a.out")] == ["c.out"]


@pytest.mark.parametrize("change", ["input", "settings", "file lost"])
def test_a_job_makes_its_own_files_where_what_it_would_find_is_not_what_it_would_make(change):
    a, b = planned(job("a"), job("b"))
    main = Main()
    start(main, a)
    if change == "input":
        Path("b").write_text("5")
    elif change == "settings":
        b = job("b", factor=5)
    else:
        Path(".b.square.ahead").unlink()
    start(main, b)
    assert main.calls == ["a.out", "b.out", "b.out"] and not left_behind()
    assert Path("b.out").read_text() == {"input": "10", "settings": "10", "file lost": "4"}[change]


def test_a_companion_that_fails_leaves_nothing_and_runs_as_its_own_job():
    Path("b").write_text("-2")
    a, b, c = planned(job("a"), job("b"), job("c"))
    main = Main()
    start(main, a)
    assert main.calls == ["a.out", "b.out"] and Path("a.out").read_text() == "2"
    assert not Path("b.out").exists() and not left_behind()
    with pytest.raises(SystemExit):
        start(main, b)
    start(main, c)
    assert Path("c.out").read_text() == "6"


def test_a_job_killed_while_it_made_others_files_has_its_own_back():
    a, _ = planned(job("a"), job("b"))
    main = Main()

    def killed(snakemake):
        if snakemake.output[0] == "b.out":
            os._exit(9)
        main(snakemake)

    child = os.fork()
    if child == 0:
        start(killed, a)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 9
    start(main, a)  # Snakemake deletes what the killed job made, and starts it again
    assert "a.out" not in main.calls and Path("a.out").read_text() == "2"


def test_companions_are_of_the_same_script_and_model_and_have_not_begun():
    own, other, *_ = planned(
        job("a", model="m"), job("b", model="m"), job("c", model="n"), job("d", "tabulate_pairs", "a", model="m")
    )
    assert [found.output[0] for found in companions("a.out")] == ["b.out"]
    start(Main(), other)  # finds no other that is ready than a
    assert companions("a.out") == [] and companions("unplanned") == []
    start(Main(), own)
    assert Path("b.out").read_text() == "4"


def test_a_process_makes_the_files_of_any_jobs_whose_times_are_not_kept(monkeypatch):
    for module in (plan, ahead):
        monkeypatch.setattr(module, "SCRIPTS", Path.cwd())
    for name in "ab":
        Path(f"{name}.py").write_text(
            f"def main(snakemake):\n for path in snakemake.output:\n  open(path, 'w').write('by {name}')\n"
            "if __name__ == '__main__':\n raise SystemExit('is a script of its own')\n"
        )
    own, *_ = planned(job("a", "a", is_timed=False), job("b", "b", is_timed=False), job("c", "b", is_timed=True))
    assert [found.output[0] for found in companions("a.out")] == ["b.out"]
    start(Main(), own)
    assert Path(".b.out.ahead").read_text() == "by b" and not Path(".c.out.ahead").exists()


def test_a_companions_inputs_are_this_runs():
    Path("a.out").write_text("of an earlier run")
    os.utime("a.out", (1, 1))
    made, _, _ = planned(job("a", "order_heads"), job("b"), job("c", inputs="a.out"))
    assert companions("b.out") == []
    start(Main(), made)
    assert [found.output[0] for found in companions("b.out")] == ["c.out"]


def test_jobs_are_complete_without_a_plan():
    main = Main()
    start(main, job("a"))
    assert main.calls == ["a.out"] and Path("a.out").read_text() == "2"
