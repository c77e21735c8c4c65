"""`.env.example` has every setting and nothing else, and says what each is for."""

import re

import pytest
from pydantic import SecretStr

from freshet.settings import PREFIX, Settings
from tests.docker.reading import DOCKER, environment

TEXT = (DOCKER / ".env.example").read_text()
LINE = re.compile(rf"^# (?P<said>.+)\n(?P<comment># )?{PREFIX}(?P<name>[A-Z0-9_]+)=(?P<value>.*)$", flags=re.MULTILINE)


def test_every_setting_is_there_once_in_order_with_its_description() -> None:
    said = [(found["name"].lower(), found["said"]) for found in LINE.finditer(TEXT)]
    assert said == [(name, field.description) for name, field in Settings.model_fields.items()]
    assert len(re.findall(rf"^(# )?{PREFIX}\w+=", TEXT, flags=re.MULTILINE)) == len(said), "and nothing else"


def test_what_is_commented_out_stands_at_its_default() -> None:
    for found in LINE.finditer(TEXT):
        default = Settings.model_fields[found["name"].lower()].default
        if found["comment"]:
            plain = default.get_secret_value() if isinstance(default, SecretStr) else "" if default is None else default
            assert found["value"] == (str(plain).lower() if isinstance(plain, bool) else str(plain)), found["name"]


def test_what_is_set_makes_settings(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in environment().items():
        monkeypatch.setenv(name, value)
    settings = Settings()
    assert (settings.kafka, settings.partitions, settings.redis) == ("kafka:9092", 12, "redis://redis:6379")
    assert settings.redis_ca is None and settings.kafka_protocol == "PLAINTEXT"
