from harness.spans import listening, span


def test_the_innermost_span_is_told_at_each_border():
    borders = []
    with listening(borders.append), span("outer"):
        with span("inner"):
            pass
    with span("unheard"):
        pass
    assert borders == ["outer", "inner", "outer", ""]
