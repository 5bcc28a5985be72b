"""A command that must be refused: with exit code 2, in one paragraph."""

from __future__ import annotations

import pytest

from tests.running import vqtk_main


class Refusing:
    """The command line, in this process, of which an error is expected."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]):
        self.monkeypatch, self.capsys = monkeypatch, capsys

    def run(self, *arguments: str) -> tuple[str, str]:
        """Run a command that must fail; return what it printed to stdout and stderr."""
        self.capsys.readouterr()
        code = vqtk_main(self.monkeypatch, *arguments)
        out, err = self.capsys.readouterr()
        assert code == 2, out + err
        assert "Traceback" not in out + err
        return out, err

    def tells(self, *arguments: str, told: list[str] | tuple[str, ...]) -> None:
        """Run a command that must fail with one paragraph that holds all fragments."""
        _, err = self.run(*arguments)
        paragraph = "".join(line for line in err.splitlines(True) if not line.startswith("MNIST is not in"))
        assert paragraph.startswith("error: ")
        assert "\n\n" not in paragraph
        assert ("problems in the recipe" in paragraph) == ("problems in the recipe" in "".join(told))
        for fragment in told:
            assert fragment in paragraph
