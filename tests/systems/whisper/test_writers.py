import pytest

from voder.systems.whisper.writers import format_timestamp, write_transcript


def test_times_are_rounded_once_and_carried():
    assert format_timestamp(59.9996) == "01:00.000"
    assert format_timestamp(3599.9996, decimal_mark=",") == "01:00:00,000"
    with pytest.raises(ValueError, match="before the beginning"):
        format_timestamp(-0.1)


def test_tabs_and_arrows_cannot_break_a_file():
    record = {"segments": [{"start": 0.0, "end": 1.0, "text": " a\tb --> c"}]}
    assert write_transcript(record, "tsv").count("\t") == 4
    assert write_transcript(record, "srt").count("-->") == 1
