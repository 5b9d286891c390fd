"""How a user's mistake travels to stderr."""

import pytest
import torch

from ocr_panoptic.errors import BAD_INPUT, INTERRUPTED, InputError, command_line


class Failing(torch.utils.data.Dataset):
    def __len__(self):
        return 1

    def __getitem__(self, index):
        raise InputError("a.png: label 77, expected 0 to 6")


@pytest.mark.parametrize("num_workers", [0, 1])
def test_survives_a_loader_worker_as_one_line(num_workers):
    loader = torch.utils.data.DataLoader(Failing(), num_workers=num_workers)
    with pytest.raises(InputError) as caught:
        next(iter(loader))
    assert str(caught.value) == "a.png: label 77, expected 0 to 6"


def test_command_line_answers_with_status_and_one_line(capsys):
    @command_line
    def main(argv):
        if argv == "bad":
            raise InputError("x: 1, expected 2")
        if argv == "Ctrl-C":
            raise KeyboardInterrupt
        if argv == "bug":
            raise RuntimeError("ours")
        return {"done": None, "other": 7}[argv]

    assert (main("done"), main("other"), main("bad")) == (0, 7, BAD_INPUT)
    assert capsys.readouterr().err == "error: x: 1, expected 2\n"
    assert main("Ctrl-C") == INTERRUPTED == 130
    assert capsys.readouterr().err == "interrupted\n"
    with pytest.raises(RuntimeError, match="ours"):
        main("bug")
