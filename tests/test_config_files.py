"""Which file of a config says what."""

from ocr_panoptic.config_files import config_chain, value_at


def test_files_come_before_what_they_override(tmp_path):
    (tmp_path / "below").mkdir()
    for name, text in {
        "a.yaml": "_BASE_: [b.yaml, below/c.yaml]\nSOLVER: {BASE_LR: 1.0}\n",
        "b.yaml": "SOLVER: {MAX_ITER: 2}\n",
        "below/c.yaml": f"_BASE_: {tmp_path}/d.yaml\n",
        "d.yaml": "",
    }.items():
        (tmp_path / name).write_text(text)
    files = list(config_chain(str(tmp_path / "a.yaml")))
    names = ["a.yaml", "below/c.yaml", "d.yaml", "b.yaml"]
    assert [file.path for file in files] == [f"{tmp_path}/{name}" for name in names]
    assert [value_at(file.content, "SOLVER.MAX_ITER") for file in files] == [None, None, None, 2]
    assert value_at(files[0].content, "SOLVER.BASE_LR.DEEPER") is None
