"""Command lines as people mistype them and as programs generate them: real ones of every verb, mutated."""

import random

SMALL = ["--steps", "200", "--training.log_period", "100", "--training.warm_up", "100"]
REAL = (
    ["train", "corridor", "--out", "new", *SMALL],
    ["train", "corridor", "--out", "finished", "--overwrite", *SMALL],
    ["train", "finished/experiment.json", "--out", "new", "--seeds", "2"],
    ["compare", "corridor", "--targets", "online_network", "target_network", "--out", "new", *SMALL],
    ["compare", "corridor", "--targets", "shared_heads:heads=2", "--out", "both", "--overwrite", *SMALL],
    ["resume", "stopped"],
    ["resume", "both"],
    ["evaluate", "finished", "--episodes", "2", "--max-steps", "20", "--seed", "1"],
    ["evaluate", "stopped", "--episodes", "2", "--max-steps", "20"],
    ["record", "finished", "--out", "film.gif", "--max-steps", "5", "--rate", "5", "--agent", "0", "--seed", "1"],
    ["report", "both", "--out", "page"],
    ["report", "finished"],
    ["verify", "finished"],
    ["verify", "both"],
    ["cost", "corridor", "--no-time", "--format", "json", "--targets", "online_network"],
    ["list"],
    ["train", "corridor", "--help"],
    ["--version"],
    ["--help"],
)
NUMBERS = (
    *("0", "-1", "1", "2", "3", "7", "64", "-0", "+1", "2e2", "1e30", "-1e30", "1e-300", "nan", "inf", "-inf", "1.5"),
    *("0.5", "1_0", "0x10", "9" * 400, "2147483648", "4294967296", "9223372036854775807", "1e400", "1,2", "¾", "٣"),
)
TEXTS = (
    *(
        "",
        " ",
        "x",
        "none",
        "true",
        "false",
        "雪",
        "\udcff",
        "\x1b[31m",
        "a" * 5000,
        "-",
        "=",
        "a=b",
        "a:b",
        "\n",
        "\\",
    ),
    *(
        "finished",
        "stopped",
        "both",
        "nowhere",
        "finished/metrics.csv",
        "finished/experiment.json",
        "both/compare.json",
    ),
    *(
        "..",
        ".",
        "/",
        "/dev/null",
        "/dev/null/x",
        "~",
        "x/../y",
        "a/b/c/d",
        "-x",
        "--",
        "---",
        "--=",
        "'",
        '"',
        "$HOME",
    ),
    *(
        "online_network",
        "target_network",
        "shared_heads",
        "iterated_networks",
        "dqn",
        "sac",
        "adam",
        "table",
        "corridor",
    ),
    *(
        "flax",
        "os:abort",
        "http.server:test",
        "a.b",
        "a.b:c",
        "json",
        "csv",
        "{}",
        "[]",
        "null",
        "offline",
        "%s",
        "{0}",
    ),
)
LONG = ("steps", "period")  # a large number here is a long training, and no mistake
PLACES = ("--out", "--overwrite")


def options() -> dict[str, str]:
    """Every option of a recipe, with the kind of value that it takes."""
    from sharedq.recipes import recipe

    return {name: told[0] for name, told in recipe("corridor").options().items()}


def mutated(draw: random.Random, known: dict[str, str]) -> list[str]:
    """One command line, mutated up to three times."""
    words = list(draw.choice(REAL))
    for _ in range(draw.choice([1, 1, 1, 2, 2, 3])):
        words = _mutate(words, draw, known)
    return words


def _mutate(words: list[str], draw: random.Random, known: dict[str, str]) -> list[str]:
    words = list(words)
    at = draw.randrange(len(words)) if words else 0
    kind = draw.randrange(10)
    if kind == 0 and words:
        del words[at]
    elif kind == 1 and words:
        words.insert(at, words[at])
    elif kind == 2:
        words.insert(draw.randint(0, len(words)), draw.choice(TEXTS))
    elif kind == 3:
        words += [draw.choice(["--unknown", "--target.nothing", "--a.b.c", "--seed s", "--seeds=", "-v"]), "1"]
    elif kind == 4 and words:
        words[at] = _typo(words[at], draw)
    elif kind == 5 and len(words) > 1:
        other = draw.randrange(len(words))
        words[at], words[other] = words[other], words[at]
    elif kind == 6 and words:
        words[at] = _value(words[at - 1], draw)
    elif kind == 7 and len(words) > 1 and words[at - 1].startswith("--"):
        words[at - 1 : at + 1] = [f"{words[at - 1]}={words[at]}"]
    else:
        name = draw.choice(sorted(known))
        value = _value(name, draw)
        words += [f"--{name}={value}"] if draw.random() < 0.5 else [f"--{name}", value]
    return words


def _value(option: str, draw: random.Random) -> str:
    value = draw.choice(NUMBERS if draw.random() < 0.7 else TEXTS)
    if any(word in option for word in LONG) and value == "2147483647":
        return "300"
    return value


def _typo(word: str, draw: random.Random) -> str:
    if not word:
        return "x"
    at = draw.randrange(len(word))
    return draw.choice([word[:at] + word[at + 1 :], word[:at] + word[at] * 2 + word[at + 1 :], word[:at], word.upper()])
