"""What `make clean` removes, and what it must leave alone."""

from helpers.course.upkeep import clean


def world(root):
    gone = ["runs/embedded/summary.json", "artifacts/embedded/sft/stage.json",
            "artifacts/quick/sft/stage.json", "helpers/engine/__pycache__/x.pyc", ".ruff_cache/x",
            "tests/artefacts/page.png"]
    other = ["artifacts/gpt2/sft/model.safetensors"]
    stay = ["ratings/mine.jsonl", "runs/embedded/feedback/07_ratings.jsonl",
            "runs/labels/pairs.jsonl",
            "runs/gpt2/chat/ratings.jsonl", ".venv/bin/python", "data/reviews/train.parquet",
            "helpers/ppo.py", "notebooks/01_x.ipynb", "benchmarks/results/ppo.json"]
    for name in (*gone, *other, *stay):
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(b"x" * 100_000)
    return gone, other, stay


def there(root, names):
    return [name for name in names if (root / name).exists()]


def test_what_is_made_again_in_minutes_goes_and_all_else_stays(tmp_path, capsys):
    gone, other, stay = world(tmp_path)
    assert clean.clean(root=tmp_path) == 0
    assert not there(tmp_path, gone) and there(tmp_path, [*other, *stay]) == [*other, *stay]
    said = capsys.readouterr().out
    assert "kept          0.1 MB  artifacts/gpt2/ (--all removes it too)" in said
    assert "kept          0.1 MB  ratings/" in said and "0.6 MB are free again." in said


def test_all_removes_the_stages_of_other_profiles_and_no_ratings(tmp_path):
    _, other, stay = world(tmp_path)
    clean.clean(everything=True, root=tmp_path)
    assert not there(tmp_path, other) and there(tmp_path, stay) == stay


def test_a_link_is_not_followed(tmp_path):
    world(tmp_path)
    outside = tmp_path.parent / f"{tmp_path.name}-outside"
    outside.mkdir()
    (outside / "precious").write_text("x")
    (tmp_path / "runs" / "link").symlink_to(outside)
    clean.clean(root=tmp_path)
    assert (outside / "precious").exists()
