"""What a reader who uses the numbers of a page may cite, as BibTeX."""

from sharedq.reports.summary import Summary

PAPER = """\
@inproceedings{vincent2026bridging,
  title = {Bridging the Performance Gap between Target-free and Target-based Reinforcement Learning},
  author = {Vincent, Th{\\'e}o and Tripathi, Yogesh and Faust, Tim and Akg{\\"u}l, Abdullah and Oren, Yaniv and
            Kandemir, Melih and Peters, Jan and D'Eramo, Carlo},
  booktitle = {International Conference on Learning Representations (ICLR)},
  year = {2026},
  eprint = {2506.04398},
  archivePrefix = {arXiv}
}"""
TITLE = "sharedq: value-based reinforcement learning on one network, with every source of regression targets"


def citations(summary: Summary) -> list[str]:
    """The paper of shared heads, and this software in the versions that trained the runs."""
    found = dict.fromkeys(str(run.versions["sharedq"]) for run in summary.comparison.runs if "sharedq" in run.versions)
    safe = [version for version in found if set(version) <= set("0123456789abcdefghijklmnopqrstuvwxyz.+-")]
    version = f",\n  version = {{{', '.join(safe)}}}" if safe else ""
    software = f"@software{{sharedq,\n  title = {{{TITLE}}},\n  author = {{{{The sharedq maintainers}}}}{version}\n}}"
    return [PAPER, software]
