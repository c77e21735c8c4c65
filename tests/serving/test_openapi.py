"""The API keeps what its OpenAPI document promises, for requests made from it and for broken ones."""

import pytest
import schemathesis
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from schemathesis import Case, GenerationMode
from schemathesis.checks import not_a_server_error
from schemathesis.specs.openapi.checks import content_type_conformance, response_schema_conformance, status_code_conformance

from serving.api import create_app
from tests.serving.small_site import Site

CHECKS = [not_a_server_error, status_code_conformance, content_type_conformance, response_schema_conformance]


@pytest.mark.parametrize("mode", list(GenerationMode))
def test_every_route_answers_as_documented(site: Site, mode: GenerationMode) -> None:
    schema = schemathesis.openapi.from_asgi("/openapi.json", create_app(site.services()))
    operations = [result.ok() for result in schema.get_all_operations()]
    assert {f"{operation.method} {operation.path}" for operation in operations} == {
        "post /v1/events",
        "post /v1/entities",
        "get /v1/users/{user_id}/recommendations",
        "get /v1/items/{item_id}/similar",
        "get /healthz",
        "get /readyz",
        "get /metrics",
        "get /v1/status",
    }
    for operation in operations:

        @settings(max_examples=10, deadline=None, derandomize=True, database=None, suppress_health_check=list(HealthCheck), phases=[Phase.generate])
        @given(case=operation.as_strategy(generation_mode=mode))
        def asked(case: Case) -> None:
            case.call_and_validate(checks=CHECKS)

        asked()
