import io

import jax
import pytest

from kdaug_jax.runtime.console import Console, table


class Terminal(io.StringIO):
    def isatty(self):
        return True


HALF, FULL = "█" * 10 + "·" * 10, "█" * 20


@pytest.mark.parametrize("stream, text", [
    (io.StringIO(), "start\nstep 1/2\nstep 2/2\ndone\n"),
    (Terminal(), f"start\n\r\x1b[K{HALF} step 1/2\r\x1b[K{FULL} step 2/2\ndone\n"),
])
def test_a_bar_overwrites_itself_on_a_terminal_only(stream, text):
    console = Console(stream)
    console.say("start")
    console.progress(0.5, "step 1/2")
    console.progress(1.0, "step 2/2")
    console.say("done")
    console.end_bar()
    assert stream.getvalue() == text


def test_a_bar_is_ended_once():
    stream = Terminal()
    console = Console(stream)
    console.progress(0.0, "step 0/2")
    console.end_bar()
    console.end_bar()
    assert stream.getvalue().endswith("step 0/2\n")


def test_other_processes_print_nothing(monkeypatch):
    monkeypatch.setattr(jax, "process_index", lambda: 1)
    stream = Terminal()
    console = Console(stream)
    console.progress(0.5, "step 1/2")
    console.say("done")
    assert stream.getvalue() == ""


def test_a_console_prints_to_standard_output(capsys):
    Console().say("done")
    assert capsys.readouterr().out == "done\n"


def test_table_aligns():
    lines = table([("network", "accuracy"), ("student", "9.00 %"), ("t", "12.00 %")]).splitlines()
    assert lines == [
        "network  accuracy",
        "-------  --------",
        "student    9.00 %",
        "t         12.00 %",
    ]
