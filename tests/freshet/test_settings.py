"""Settings: from the environment by name, each within its bounds, and no misspelt one passed over."""

from pathlib import Path

import pytest
from pydantic import ValidationError

from freshet.settings import Settings


def test_every_setting_says_what_it_is_and_has_a_default() -> None:
    assert Settings().data == Path("data")
    assert Settings().host == "127.0.0.1", "nobody outside is served unless asked for"
    for name, field in Settings.model_fields.items():
        assert field.description, name
        assert not field.is_required(), name


def test_the_environment_is_read_and_an_argument_goes_before_it(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("FRESHET_DATA", str(tmp_path))
    monkeypatch.setenv("FRESHET_TRAIN_EVENTS_MIN", "777")
    monkeypatch.setenv("freshet_trunk_every", "9")
    settings = Settings(train_events_min=888)
    assert (settings.data, settings.train_events_min, settings.trunk_every) == (tmp_path, 888, 9)


def test_a_name_in_the_environment_without_a_value_is_as_if_it_were_not_there(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("FRESHET_PORT", "FRESHET_KAFKA_CA", "FRESHET_TRAIN_SECONDS_MAX"):
        monkeypatch.setenv(name, "")
    assert Settings().port == Settings.model_fields["port"].default and Settings().kafka_ca is None


def test_an_unknown_argument_is_refused() -> None:
    with pytest.raises(ValidationError, match="train_event_min"):
        Settings(train_event_min=500)  # type: ignore[call-arg]


def test_an_unknown_name_in_the_environment_is_refused_and_the_known_ones_are_listed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FRESHET_TRAIN_EVENT_MIN", "500")
    with pytest.raises(ValidationError, match=r"no such setting: FRESHET_TRAIN_EVENT_MIN .*FRESHET_TRAIN_EVENTS_MIN"):
        Settings()


def test_what_names_services_to_test_with_is_no_setting(monkeypatch: pytest.MonkeyPatch) -> None:
    plain = Settings()
    monkeypatch.setenv("FRESHET_TEST_ANYTHING", "x")
    assert Settings() == plain


@pytest.mark.parametrize(
    ("name", "least", "most"),
    [
        ("port", 1, 65535), ("partitions", 1, 4096), ("batch_records_max", 1, 65536), ("refresh_items_max", 1, 4096),
        ("log_bytes_max", 1 << 20, None), ("state_bytes_max", 1 << 20, None), ("train_events_min", 100, None),
        ("train_interval_s", 0, None), ("trunk_every", 1, None),
        ("train_seconds_max", 1, None), ("versions_max", 1, None),
    ],
)  # fmt: skip
def test_bounds_are_inclusive_and_hold(name: str, least: int, most: int | None) -> None:
    assert getattr(Settings(**{name: least}), name) == least  # type: ignore[arg-type]  # the name is the test's
    with pytest.raises(ValidationError, match=name):
        Settings(**{name: least - 1})  # type: ignore[arg-type]
    if most is not None:
        assert getattr(Settings(**{name: most}), name) == most  # type: ignore[arg-type]
        with pytest.raises(ValidationError, match=name):
            Settings(**{name: most + 1})  # type: ignore[arg-type]


@pytest.mark.parametrize("value", ["many", "nan", "-1"])
def test_a_value_that_is_no_such_number_is_refused(monkeypatch: pytest.MonkeyPatch, value: str) -> None:
    monkeypatch.setenv("FRESHET_TRAIN_INTERVAL_S", value)
    with pytest.raises(ValidationError, match="train_interval_s"):
        Settings()


def test_what_trains_is_the_cpu_unless_another_device_of_those_there_are_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    assert (Settings().train_device, Settings().train_precision) == ("cpu", "float32")
    monkeypatch.setenv("FRESHET_TRAIN_DEVICE", "auto")
    assert Settings().train_device == "auto"
    monkeypatch.setenv("FRESHET_TRAIN_DEVICE", "gpu")
    monkeypatch.setenv("FRESHET_TRAIN_PRECISION", "half")
    with pytest.raises(ValidationError, match=r"(?s)train_device.*'cpu', 'cuda' or 'auto'.*'gpu'.*train_precision.*'bfloat16'.*'half'"):
        Settings()
