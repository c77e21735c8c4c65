"""What a long training says: a bar to a terminal, a line now and then to a file."""

from pytest import CaptureFixture

from bench.quality.progress import LINE_SHARE, lines, meter


def test_a_line_is_said_for_each_share_of_the_budget_once() -> None:
    said: list[str] = []
    tell = lines("model", said.append)
    for spent in (0.0, LINE_SHARE / 2, LINE_SHARE, 1.5 * LINE_SHARE, 4.5 * LINE_SHARE, 1.0):
        tell(spent, 4.25, 0.125)
    assert [line.split()[2] for line in said] == ["5%", "22%", "100%"] and all("loss 4.250, validation MRR 0.1250" in line for line in said)


def test_what_is_no_terminal_gets_lines(capsys: CaptureFixture[str]) -> None:
    with meter("with dropout 0.2") as tell:
        tell(0.5, 1.0, float("nan"))
    assert "training with dropout 0.2  50%  loss 1.000, validation MRR nan" in capsys.readouterr().err
