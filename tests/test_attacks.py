"""What an adversary, a careless hand or a bad night does to runs, by the hundred, as SQLite tests its faults.

Processes are killed at random and at every moment of a save, machines stop, disks are full, files are damaged, folders
are hostile, command lines are mutated, readers leave. Each time a command works or refuses in one line; what is damaged
is told; what was killed goes on to the same end; and nothing outside the folder under attack is touched.

A sample runs by default, in which every kind of attack occurs; all of it runs with  pytest -s -m slow
tests/test_attacks.py , which prints the counts.
"""

import contextlib
import json
import os
import random
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from attacks import command_lines, damages
from attacks.answers import Answer, Asks, Counts, ask, differences, outcome, states
from attacks.moments import DEAD, Full, Recorder, copy, watched
from attacks.nursery import Nursery

import sharedq
from sharedq.errors import Stopped
from sharedq.recipes import recipe
from sharedq.runs import run_files

OPTIONS = {
    "steps": 600,
    "seeds": 2,
    "training.log_period": 100,
    "training.checkpoint_period": 100,
    "training.warm_up": 100,
    "replay.capacity": 200,
    # Noisy rewards and a policy that follows the values: whatever is lost on the way changes all that comes after.
    "environment.name": "maximisation_bias",
    "algorithm.epsilon_end": 0.1,
    "target": "shared_heads",
    "target.heads": 2,
    "target.period": 30,
}
SETTINGS = [f"--{name}={value}" for name, value in OPTIONS.items()]
TRAIN = ["train", "corridor", *SETTINGS, "--out", "run"]
PAIR = [word for word in SETTINGS if not word.startswith("--target")]
COMPARE = [
    "compare",
    "corridor",
    *PAIR,
    "--targets",
    "shared_heads:heads=2,period=30",
    "online_network",
    "--out",
    "run",
]
WORDS = {"a run": TRAIN, "a comparison": COMPARE}
TOLD = (
    "not whole",
    "edited",
    "nothing vouches",
    "not as",
    "damaged",
    "begun with",
    "another",
    "so far is used",
)  # how damage is told


def sampled(few: int, many: int):
    """Runs a test with a small number, and marked slow with a large one."""
    return pytest.mark.parametrize(
        "number", [pytest.param(few, id="sample"), pytest.param(many, id="all", marks=pytest.mark.slow)]
    )


@pytest.fixture(scope="module", autouse=True)
def compiled_once():
    """Experiments that are equal share their compiled program, so that an attack costs what its files cost."""
    from sharedq import trainer
    from sharedq.training.fused import FusedProgram

    made, prepared, prepare = {}, trainer.prepared, FusedProgram.prepare

    def prepared_once(experiment):
        key = json.dumps(experiment.to_dict(), sort_keys=True)
        if key not in made:
            if len(made) > 50:
                made.clear()
            made[key] = prepared(experiment)
        return made[key]

    def prepare_once(program):
        if not hasattr(program, "needed"):
            program.needed = prepare(program)
        return program.needed

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(trainer, "prepared", prepared_once)
        patch.setattr(FusedProgram, "prepare", prepare_once)
        yield


@pytest.fixture(scope="module", autouse=True)
def no_figures():
    """Figures take most of a report's time."""
    from sharedq.reports.figures import Figure

    def draw(summary):
        names = ("", *(task.name for task in summary.tasks))
        return {name: [Figure("areas", "caption", b"", b"")] for name in names}

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("sharedq.reports.page.draw", draw)
        yield


def stop(options: dict, out: Path) -> None:
    with pytest.raises(Stopped):
        sharedq.train(recipe("corridor").replace(**options), out, progress=Asks(400), command="sharedq train corridor")


@pytest.fixture(scope="module")
def wholes(tmp_path_factory) -> Path:
    """A run and a comparison that ended, a run that was stopped, and a run of another seed, each left alone since."""
    root = tmp_path_factory.mktemp("wholes")
    for part, words in WORDS.items():
        folder = root / ("finished" if part == "a run" else "both")
        (root / "new").mkdir()
        assert ask(*words, folder=root / "new").trouble == ""
        (root / "new/run").rename(folder)
        (root / "new").rmdir()
    stop(OPTIONS, root / "stopped")
    stop(OPTIONS | {"seed": 5}, root / "other")
    return root


def ends_of(run: Path) -> dict:
    return outcome(run)


def protected(root: Path, wholes: Path) -> tuple[Path, Path]:
    """A folder to attack in, and beside it what nobody may touch."""
    inside, precious = root / "inside", root / "precious"
    inside.mkdir(parents=True)
    if not precious.exists():
        shutil.copytree(wholes / "other", precious / "other")
        shutil.copytree(wholes / "finished", precious / "finished")
        (precious / "thesis.txt").write_text("years of work")
    return inside, precious


def go_on(inside: Path) -> Answer:
    """What somebody does after a night: resume what there is, or ask again for what there is not."""
    run = inside / "run"
    begun = (run / "experiment.json").exists() or (run / "compare.json").exists()
    return ask("resume", "run", folder=inside) if begun else Answer(None, "", "", "")


def recovered(inside: Path, words: list[str], whole: dict) -> str:
    """Goes on with what a killed process left, and says what is wrong with the end, if something is."""
    run = inside / "run"
    if run.exists() and (run / "experiment.json").exists():
        looked = ask("verify", "run", folder=inside)
        if looked.trouble or looked.code != 0:
            return looked.trouble or f"verify says of a run that was killed: {looked.err}"
    answer = go_on(inside)
    if answer.code is None:
        answer = ask(*words, folder=inside)
    if answer.trouble:
        return answer.trouble
    if answer.code != 0 and "finished already" not in answer.err:
        return f"it does not go on: {answer.err}"
    if left := sorted(path.name for path in inside.iterdir() if path != run):
        return f"left behind: {left}"
    ended = outcome(run)
    if left := sorted(name for name in ended.keys() - whole.keys() if Path(name).name.startswith(".")):
        return f"left behind: {left}"
    if differing := differences(ended, whole):
        return f"silent: another end: {differing}"
    looked = ask("verify", "run", folder=inside)
    return looked.trouble or ("" if looked.code == 0 else f"not whole at the end: {looked.err}")


@contextlib.contextmanager
def a_process_that_ends():
    """Within, this process has a number that will be nobody's when what it left is found."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "getpid", lambda: DEAD)
        patch.setattr("sharedq.runs.run_directory.lives", lambda number: True)
        yield


def walk(part: str, words: list[str], start: Path | None, root: Path, share: float, losses, record_property) -> None:
    """Runs a command once, and goes on from each moment of it, or from this share of them."""
    inside = root / "recorded"
    copy(start, inside) if start else inside.mkdir(parents=True)
    recorder = Recorder(inside, root / "moments", losses, share)
    with a_process_that_ends(), watched(inside, recorder):
        answer = ask(*words, folder=inside)
    assert not answer.trouble and answer.code == 0, answer
    whole, counts = outcome(inside / "run"), Counts(f"moments of {part}")
    for name, made in recorder.copies:
        bad = recovered(made, words if words[0] != "resume" else TRAIN, whole)
        counts.add(name, "went on to the same end", bad)
        shutil.rmtree(made)
    assert recorder.copies
    print(f"\n{recorder.moments} changes of {part}: {len(recorder.copies)} different folders tried", end="")
    counts.check(record_property)


@sampled(0.02, 1.0)
def test_killed_at_each_moment_of_a_run(tmp_path, wholes, number, record_property):
    walk("a run, killed or powerless", TRAIN, None, tmp_path, number, (0.0, 0.5, 1.0), record_property)


@sampled(0.03, 1.0)
def test_killed_at_each_moment_of_going_on(tmp_path, wholes, number, record_property):
    """From a folder with a log beyond the checkpoint, checkpoints too many, and files half written."""
    start = tmp_path / "start"
    shutil.copytree(wholes / "stopped", start / "run")
    for name in ("metrics.csv", "episodes.csv"):
        with (start / "run" / name).open("a") as file:
            file.write("500,0,1")
    (start / "run/.finished.json.new").write_text("{")
    shutil.copytree(start / "run/checkpoints/000000000400", start / "run/checkpoints/.unfinished")
    words = ["resume", "run"]
    walk("going on, killed or powerless", words, start, tmp_path, number, (0.0, 0.5, 1.0), record_property)


@sampled(0.03, 1.0)
def test_killed_at_each_moment_of_replacing_a_run(tmp_path, wholes, number, record_property):
    """The old run is there or the new one, never neither; and asking again ends as if nothing had happened."""
    inside = tmp_path / "recorded"
    shutil.copytree(wholes / "other", inside / "run")
    recorder = Recorder(inside, tmp_path / "moments", share=number)
    with a_process_that_ends(), watched(inside, recorder):
        assert ask(*TRAIN, "--overwrite", folder=inside).code == 0
    whole, counts = outcome(inside / "run"), Counts("moments of replacing a run")
    for name, made in recorder.copies:
        there = [path for path in made.iterdir() if (path / "checkpoints").is_dir()]
        agents = any(list(path.rglob("agent.safetensors")) for path in there)
        bad = "" if there and (agents or (made / "run").is_dir()) else "neither the old run nor the new one is there"
        answer = ask(*TRAIN, "--overwrite", folder=made)
        bad = bad or answer.trouble or (f"refused: {answer.err}" if answer.code else "")
        if not bad and (differing := differences(outcome(made / "run"), whole)):
            bad = f"silent: another end: {differing}"
        if not bad and (left := [path.name for path in made.iterdir() if path.name != "run"]):
            bad = f"left behind: {left}"
        counts.add(name, "replaced in the end", bad)
        shutil.rmtree(made)
    counts.check(record_property)


@sampled(0.01, 1.0)
def test_killed_at_each_moment_of_a_comparison(tmp_path, wholes, number, record_property):
    walk("a comparison, killed", COMPARE, None, tmp_path, number, (0.0,), record_property)


@sampled(2, 100)
def test_killed_processes(tmp_path, wholes, number, record_property):
    """Real ones, each run killed up to three times: at a change by its number, or after a random time."""
    whole, counts, draw = outcome(wholes / "finished"), Counts("processes killed"), random.Random(number)
    nursery, runs = Nursery(Path(__file__).parent), 0
    try:
        while counts.ends.total() < number:
            inside, words, runs = tmp_path / str(runs), TRAIN, runs + 1
            inside.mkdir()
            for _ in range(3):
                exactly = draw.random() < 0.6
                process = nursery.start(words, inside, at=draw.randint(1, 150) if exactly else 0)
                if not exactly:
                    time.sleep(draw.uniform(0.3, 1.6))
                    with contextlib.suppress(ProcessLookupError):
                        os.kill(process, signal.SIGKILL)
                code = nursery.wait()
                if code != -signal.SIGKILL:
                    break
                counts.add(process, "at a chosen moment" if exactly else "at a random moment")
                words = ["resume", "run"] if (inside / "run/experiment.json").exists() else TRAIN
            there = sorted(path.name for path in inside.iterdir())
            bad = "" if code in (0, 2, -signal.SIGKILL) else f"exit code {code}"
            if bad := bad or recovered(inside, TRAIN, whole):
                counts.bad.append(("other bad ends", f"{words[0]} ended with {code} in {there}: {bad}"))
    finally:
        nursery.close()
    counts.check(record_property)


@sampled(3, 10_000)
def test_full_disks(tmp_path, wholes, number, record_property):
    """Full from the n-th change on, then mended: one line names the file, and what goes on comes to the same end."""
    counts, draw = Counts("full disks"), random.Random(number)
    whole = outcome(wholes / "finished")
    with watched(tmp_path / "count", full := Full(10**9)):
        protected(tmp_path / "count", wholes)
        full.moments = 0
        assert ask(*TRAIN, folder=tmp_path / "count/inside").code == 0
    moments = range(1, full.moments + 1)
    for at in moments if number >= len(moments) else draw.sample(moments, number):
        inside = tmp_path / str(at)
        inside.mkdir()
        with watched(inside, disk := Full(at)):
            answer = ask(*TRAIN, folder=inside)
        bad = answer.trouble
        if disk.refused and not bad and (answer.code != 2 or "No space left on device" not in answer.err):
            bad = f"told wrongly: {answer.code} {answer.err}"
        bad = bad or recovered(inside, TRAIN, whole)
        counts.add(f"full at change {at}", "told, and went on" if disk.refused else "not refused", bad)
        shutil.rmtree(inside)
    counts.check(record_property)


def act(name: str, inside: Path) -> dict[str, Answer]:
    """What is done with a damaged run or comparison after it was verified."""
    asked = {
        "stopped": {"resume": ["resume", "run"]},
        "finished": {"evaluate": ["evaluate", "run", "--episodes=2", "--max-steps=9"], "report": ["report", "run"]},
        "both": {"resume": ["resume", "run"], "report": ["report", "run"]},
    }
    return {verb: ask(*words, folder=inside) for verb, words in asked[name].items()}


def result(verb: str, name: str, answer: Answer, inside: Path) -> dict:
    """What somebody takes home from a command that worked."""
    if verb == "evaluate":
        return {"said": answer.out}
    if verb == "resume" and name == "stopped":
        return outcome(inside / "run")
    return {page: (inside / "run" / page).read_bytes() for page in ("summary.json", "report.html")}


@pytest.fixture(scope="module")
def undamaged(tmp_path_factory, wholes) -> dict:
    """What the commands come to on what is whole."""
    found = {}
    for name in ("stopped", "finished", "both"):
        inside = tmp_path_factory.mktemp("undamaged")
        copy(wholes / name, inside / "run")
        for verb, answer in act(name, inside).items():
            assert answer.code == 0 and not answer.trouble, answer
            found[name, verb] = result(verb, name, answer, inside)
    return found


@sampled(25, 700)
def test_damaged_files(tmp_path, wholes, undamaged, number, record_property):
    """Verify names it, or the commands refuse or remark, or what they come to is what it would have been."""
    counts = Counts("damages")
    for attack in range(number):
        draw = random.Random(attack)
        name = draw.choice(["stopped", "finished", "both"])
        inside, precious = protected(tmp_path / str(attack), wholes)
        copy(wholes / name, inside / "run")
        file = draw.choice(damages.files_of(inside / "run"))
        kind = draw.choice(damages.KINDS)
        what = f"{attack}: {kind} in {name}/{file.relative_to(inside / 'run')}"
        if not damages.damage(file, kind, draw, precious):
            counts.add(what, "without a change")
            continue
        outside, before = states(tmp_path / str(attack), inside / "run"), states(inside / "run")
        verified = ask("verify", "run", folder=inside)
        bad = verified.trouble or ("outside: verify changed something" if states(inside / "run") != before else "")
        end = "named by verify" if verified.code == 2 else "harmless"
        for verb, answer in act(name, inside).items():
            bad = bad or (answer.trouble and f"{verb}: {answer.trouble}")
            page = inside / "run/report.html"
            remarks = answer.out + (page.read_text() if verb == "report" and answer.code == 0 else "")
            if answer.code != 0 or any(word in remarks for word in TOLD):
                end = "refused or remarked" if end == "harmless" else end
            elif differing := differences(result(verb, name, answer, inside), undamaged[name, verb]):
                bad = bad or f"silent: {verb} takes it as whole, other are {differing} ({end})"
        if states(tmp_path / str(attack), inside / "run") != outside:
            bad = "outside: something beside the run was changed"
        counts.add(what, end, bad)
        shutil.rmtree(tmp_path / str(attack))
    counts.check(record_property)


@sampled(30, 1000)
def test_mutated_command_lines(tmp_path, wholes, number, record_property):
    counts, known = Counts("command lines"), command_lines.options()
    for attack in range(number):
        root = tmp_path / str(attack)
        inside, _ = protected(root, wholes)
        for name in ("finished", "stopped", "both"):
            copy(wholes / name, inside / name)
        words = command_lines.mutated(random.Random(attack), known)
        before, outside = states(inside), states(root, inside)
        began = time.monotonic()
        answer = ask(*words, folder=inside)
        passed = time.monotonic() - began
        bad = answer.trouble
        if states(root, inside) != outside:
            bad = "outside: something beside the folder was changed"
        if answer.code == 2 and not bad:
            after = states(inside)
            new = sorted(path for path in after.keys() - before.keys() if not path.endswith("lock"))
            gone = sorted(before.keys() - after.keys())
            if (new or gone) and answer.code == 2:
                bad = f"a refusal that leaves {new[:3]} or takes {gone[:3]}: {answer.err}"
        slow = " (slowly)" if passed > 10 else ""
        counts.add(f"{attack}: {words}", f"exit code {answer.code}{slow}", bad)
        shutil.rmtree(root)
    counts.check(record_property)


NAMES = (*run_files.FILES, *run_files.FOLDERS)
ASKED = (
    *(["verify", "run"], ["resume", "run"], ["report", "run"], ["evaluate", "run", "--episodes=2", "--max-steps=9"]),
    *(["record", "run", "--max-steps=5", "--out", "run/episode.gif"], [*TRAIN], [*TRAIN, "--overwrite"]),
    *([*COMPARE], [*COMPARE, "--overwrite"], ["train", "run/experiment.json", "--out", "new"]),
)
STRANGE = (
    "雪",
    "a b",
    "-rf",
    "\x1b[31m",
    "a\nb",
    "\udcff",
    "=1+1",
    "'; ls",
    "x" * 200,
    "..x",
    "%s{0}",
    "checkpoints.old",
)


IN_CHECKPOINT = re.compile(r"run/checkpoints/(\d{12,}|\.unfinished|\.removed)/.*")  # what goes with a checkpoint


def hostile(attack: int, inside: Path, precious: Path, wholes: Path) -> tuple[str, list[str]]:
    """Makes a folder that somebody else prepared; what it is, and the names of its files that are not a run's."""
    draw = random.Random(attack)
    run = inside / "run"
    name = draw.choice(["stopped", "finished", "both", "nothing"])
    copy(wholes / name, run) if name != "nothing" else run.mkdir()
    kind = draw.choice(["link", "dangling", "strange", "foreign", "checkpoint", "root", "pipe", "parent", "swarm"])
    part = draw.choice(NAMES)
    place = run / part if draw.random() < 0.7 else draw.choice([one for one in [run, *run.rglob("*")] if one.is_dir()])
    if kind in ("link", "dangling", "pipe"):
        if place == run or place.is_dir():
            shutil.rmtree(place)
        else:
            place.unlink(missing_ok=True)
        if kind == "pipe":
            os.mkfifo(place)
        else:
            goals = [precious / "thesis.txt", precious / "other", precious, precious / "finished" / part]
            place.symlink_to(draw.choice(goals) if kind == "link" else precious / "absent")
    elif kind == "root":
        shutil.rmtree(run)
        run.symlink_to(draw.choice([precious / "other", precious / "finished", precious, precious / "thesis.txt"]))
    elif kind == "parent":
        (inside / f".run.{DEAD}.old").symlink_to(precious / "other")
        (inside / f".run.{DEAD}.new").symlink_to(precious)
    elif kind == "checkpoint":
        (run / "checkpoints").mkdir(exist_ok=True)
        for other in ("7", "000000000999", "0000000000600", ".unfinished", ".removed", "٠٠٠٠٠٠٠٠٠٩٩٩"):
            (run / "checkpoints" / other).mkdir(exist_ok=True)
        (run / "checkpoints/notes.txt").write_text("mine")
    else:
        folder = place if place.is_dir() else run
        for other in draw.sample(STRANGE, 3 if kind != "swarm" else len(STRANGE)):
            (folder / other).write_text("mine")
        if kind == "foreign":
            (folder / "thesis").mkdir(exist_ok=True)
            (folder / "thesis/chapter.txt").write_text("years")
            (folder / ".git").mkdir(exist_ok=True)
            (folder / ".git/HEAD").write_text("ref")
    theirs = (
        [
            path.relative_to(inside).as_posix()
            for path in run.rglob("*")
            if not run.is_symlink() and path.is_file() and path.read_bytes() in (b"mine", b"years", b"ref")
        ]
        if not run.is_symlink() and kind != "pipe"
        else []
    )
    return f"{kind} at {place.relative_to(inside)} of {name}", theirs


@sampled(15, 300)
def test_hostile_folders(tmp_path, wholes, number, record_property):
    """Nothing is touched through a link in a run or beside it, and what is no run's is left alone."""
    counts = Counts("hostile folders")
    for attack in range(number):
        root = tmp_path / str(attack)
        inside, precious = protected(root, wholes)
        what, theirs = hostile(attack, inside, precious, wholes)
        words = ASKED[attack % len(ASKED)]
        outside = states(precious)
        answer = ask(*words, folder=inside)
        bad = answer.trouble
        named = (inside / "run").is_symlink() and words[0] in (
            "resume",
            "report",
            "record",
        )  # what it leads to is meant
        if states(precious) != outside and not named:
            bad = "outside: something beside the run was changed"
        if gone := [name for name in theirs if not (os.path.lexists(inside / name) or IN_CHECKPOINT.match(name))]:
            bad = f"outside: it removed {gone}"
        counts.add(f"{attack}: {what}, {words[0]} {words[-1]}", f"exit code {answer.code}", bad)
        shutil.rmtree(root)
    counts.check(record_property)


PIPED = (
    (["train", "corridor", *SETTINGS, "--out", "new"], (0,)),
    (["verify", "finished"], (0, 141)),
    (["list"], (0, 141)),
    (["resume", "stopped"], (0,)),
    (["report", "both"], (0, 141)),
    (["train", "corridor", "--help"], (0, 141)),
    (["evaluate", "finished", "--episodes=2"], (0, 141)),
    (["cost", "corridor", "--no-time"], (0, 141)),
    (["compare", *COMPARE[1:-1], "new"], (0,)),
    (["record", "finished", "--max-steps=5", "--out", "film.gif"], (2,)),  # which has no pictures
    (["verify", "nowhere"], (2, 141)),
    (["nonsense"], (2, 141)),
)


@sampled(1, len(PIPED))
@pytest.mark.parametrize("closed", ["reader", "all"])
def test_closed_pipes(tmp_path, wholes, number, closed, record_property):
    """A reader that leaves at once, and streams that are closed from the start: no traceback, and training ends."""
    counts = Counts(f"closed pipes ({closed})")
    code = "import sys; from sharedq.command_line import main; sys.exit(main())"
    for attack, (words, codes) in enumerate(PIPED[:number]):
        inside = tmp_path / str(attack)
        inside.mkdir()
        for name in ("finished", "stopped", "both"):
            copy(wholes / name, inside / name)
        arguments = [sys.executable, "-c", code, *words]
        if closed == "reader":
            read, write = os.pipe()
            os.close(read)
            process = subprocess.Popen(arguments, cwd=inside, stdout=write, stderr=subprocess.PIPE, text=True)
            os.close(write)
        else:
            arguments = ["sh", "-c", 'exec "$@" >&- 2>/dev/null <&-', "sh", *arguments]
            process = subprocess.Popen(arguments, cwd=inside, stderr=subprocess.PIPE, text=True)
        said = process.communicate()[1]
        bad = f"traceback: {said[-300:]}" if re.search("Traceback|Exception ignored", said) else ""
        if process.returncode not in codes:
            bad = bad or f"exit code {process.returncode}: {said}"
        if words[0] == "train" and "--help" not in words and not bad:
            differing = set(differences(outcome(inside / "new"), outcome(wholes / "finished")))
            bad = f"silent: another end: {differing}" if differing - {"command.txt"} else ""
        counts.add(words, f"exit code {process.returncode}", bad)
    counts.check(record_property)
