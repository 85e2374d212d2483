"""MONGODB_URL, read by us before the driver does: what it would guess, and what it leaves open."""

import re
from collections.abc import Mapping, Sequence
from typing import Any

from pymongo.errors import ConfigurationError, InvalidURI
from pymongo.uri_parser import parse_uri

_OF_TLS = (
    "ssl",
    "tls",
    "tlsAllowInvalidCertificates",
    "tlsAllowInvalidHostnames",
    "tlsCAFile",
    "tlsCertificateKeyFile",
    "tlsCertificateKeyFilePassword",
    "tlsCRLFile",
    "tlsDisableOCSPEndpointCheck",
    "tlsInsecure",
)
_UNCHECKED = ("tlsAllowInvalidCertificates", "tlsAllowInvalidHostnames", "tlsInsecure")
_OUTSIDE = {"GSSAPI", "MONGODB-AWS", "MONGODB-X509"}
"""Mechanisms whose users belong to no database (the driver's own default for these)."""


def check_url(url: str) -> None:
    """Raise ValueError where the driver cannot use it, or would guess. Shows names of options only.

    Of an option that is given twice the driver takes the last, so `tls=false` may hide anywhere.
    """
    named = [name for name, _ in _options_of(url)]
    if twice := [name for name in _OF_TLS if named.count(name.lower()) > 1]:
        raise ValueError(f"{' and '.join(twice)} stands there twice: leave one of them")
    try:
        parse_uri(url, warn=False, connect_timeout=4)
    except OSError as error:  # a file that it names; whoever reads this needs its path
        raise ValueError(f"{error.filename}: {error.strerror}") from None
    except (InvalidURI, ConfigurationError, ValueError) as error:
        raise ValueError(_without_secrets(str(error), url)) from None


def unchecked_in(url: str) -> Sequence[str]:
    """The options of a URL by which certificates are not checked, or not whole."""
    options = _options_of(url)
    return [name for name in _UNCHECKED if (name.lower(), "true") in options]


def _options_of(url: str) -> Sequence[tuple[str, str]]:
    """What the URL itself says, in lower case; nobody is asked for its host."""
    pairs = (option.partition("=") for option in re.split("[&;]", url.partition("?")[2].lower()))
    return [(name, value) for name, _, value in pairs]


def source_in(said: Mapping[str, Any]) -> str:
    """The database where the driver lets the server look for the user, by its specification."""
    options = said["options"]
    named = options.get("authSource") or said["database"]
    is_outside = options.get("authMechanism") in _OUTSIDE
    return str(options.get("authSource") or "$external" if is_outside else named or "admin")


def _without_secrets(message: str, url: str) -> str:
    for part in (url, *url.replace("@", "/").split("/")):
        if len(part) > 3 and part in message:
            return "is not a MongoDB connection string"
    return message
