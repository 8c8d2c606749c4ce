from __future__ import annotations

import pytest

from shared.printable import printable


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("Amélie (2001) 天堂", "Amélie (2001) 天堂"),
        ("\x1b]52;c;Zm9v\x07safe", " ]52;c;Zm9v safe"),
        ("a\r\nb\u202egnp.exe", "a  b gnp.exe"),
        ("\U0001f468\u200d\U0001f469", "\U0001f468\u200d\U0001f469"),
        ("", ""),
    ],
)
def test_a_text_moves_no_cursor_and_hides_nothing(text, shown):
    assert printable(text) == shown
