"""What is free to a run: also what its container holds of files, and gives back when memory is short."""

from sharedq.training.memory import container_free


def group(folder, **files):
    for name, text in files.items():
        (folder / f"memory.{name}").write_text(text)
    return folder


def test_cached_files_of_a_container_are_free(tmp_path):
    stat = "anon 500\nfile 300\ninactive_file 200\nactive_file 100\n"
    assert container_free(group(tmp_path, max="1000\n", current="900\n", stat=stat)) == 300


def test_a_container_without_a_limit_says_nothing(tmp_path):
    assert container_free(tmp_path) is None
    assert container_free(group(tmp_path, max="max\n", current="900\n", stat="inactive_file 200\n")) is None
