"""The API keeps what its OpenAPI document promises, for requests made from it and for broken ones."""

from typing import Any

import pytest
import schemathesis
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis.strategies import SearchStrategy
from schemathesis import Case, GenerationMode
from schemathesis.checks import not_a_server_error
from schemathesis.core.result import Ok
from schemathesis.specs.openapi.checks import content_type_conformance, response_schema_conformance, status_code_conformance

from serving.api import create_app
from tests.serving.small_site import Site

CHECKS = [not_a_server_error, status_code_conformance, content_type_conformance, response_schema_conformance]


@pytest.mark.parametrize("mode", list(GenerationMode))
def test_every_route_answers_as_documented(site: Site, mode: GenerationMode) -> None:
    schema = schemathesis.openapi.from_asgi("/openapi.json", create_app(site.services()))
    operations = [result.ok() for result in schema.get_all_operations() if isinstance(result, Ok)]
    assert {f"{operation.method} {operation.path}" for operation in operations} == {
        "post /v1/events",
        "post /v1/entities",
        "get /v1/users/{user_id}/recommendations",
        "get /v1/items/{item_id}/similar",
        "get /healthz",
        "get /readyz",
        "get /metrics",
        "get /v1/status",
        "get /v1/digest",
    }
    for operation in operations:
        if mode is GenerationMode.NEGATIVE and not (operation.body or list(operation.iter_parameters())):
            continue  # nothing to get wrong
        _ask(operation.as_strategy(generation_mode=mode))


def _ask(cases: SearchStrategy[Case[Any]]) -> None:
    @settings(max_examples=15, derandomize=True, database=None, suppress_health_check=list(HealthCheck), phases=[Phase.generate])
    @given(case=cases)
    def asked(case: Case[Any]) -> None:
        case.call_and_validate(checks=CHECKS)

    asked()
