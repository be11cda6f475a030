"""What of a factory's environment an engine gets."""

from __future__ import annotations

import pytest

from factory.surroundings.variables import check_pattern, machine_variables

MACHINE = {
    "PATH": "/usr/bin",
    "HOME": "/home/ann",
    "LC_ALL": "C.UTF-8",
    "https_proxy": "http://proxy.example.invalid:3128",
    "NO_PROXY": "localhost",
    "SSL_CERT_FILE": "/etc/ssl/own.pem",
    "SSH_AUTH_SOCK": "/run/agent",
    "GIT_SSH_COMMAND": "ssh -i key",
    "GIT_AUTHOR_NAME": "Ann",
    "GIT_COMMITTER_EMAIL": "ann@example.invalid",
    "GOPATH": "/home/ann/go",
}
NOT_THEIRS = {
    "AQ_FLEET_TOKEN": "secret-1",
    "AQ_FLEET_API": "http://127.0.0.1:1",
    "COSMOS_KEY": "secret-2",
    "GIGAFACTORY_ANYTHING": "secret-3",
    "MYCLOUD_TOKEN": "secret-4",
    "OPENAI_API_KEY": "secret-5",
    "GIT_DIR": "/elsewhere/.git",
    "GIT_INDEX_FILE": "/elsewhere/index",
    "GIT_AUTHOR_DATE": "2001-01-01",
    "GIT_CONFIG_PARAMETERS": "'a.b=c'",
    "SSH_ASKPASS": "/usr/bin/asks",
    "LD_PRELOAD": "/elsewhere.so",
}


def test_an_engine_gets_what_programs_need_and_nothing_that_nobody_named() -> None:
    assert machine_variables(MACHINE | NOT_THEIRS) == MACHINE


def test_what_an_operator_names_is_passed_on() -> None:
    known = machine_variables(NOT_THEIRS | {"MYCLOUD_URL": "u"}, ("MYCLOUD_*", "OPENAI_API_KEY"))
    assert known == {"MYCLOUD_TOKEN": "secret-4", "MYCLOUD_URL": "u", "OPENAI_API_KEY": "secret-5"}


def test_a_star_never_reaches_what_is_the_factorys_own_or_gits() -> None:
    assert machine_variables(NOT_THEIRS, ("A*", "G*", "C*")) == {}


@pytest.mark.parametrize(
    "pattern", ["AQ_FLEET_TOKEN", "GIGAFACTORY_X", "COSMOS_*", "GIT_DIR", "a-b", "*", "", "A*B", "A=1"]
)
def test_what_cannot_be_passed_on_is_refused_with_the_options_name(pattern: str) -> None:
    with pytest.raises(ValueError, match="--pass-env"):
        check_pattern(pattern)
