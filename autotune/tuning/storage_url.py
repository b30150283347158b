"""The URL of a server that workers share, and what may be said of it: never its password."""

import re

from autotune import UserError

# Of a query, as libpq and SQLite name them; whatever else stands there may be a secret.
HARMLESS = frozenset(
    {
        "application_name", "connect_timeout", "channel_binding", "host", "port", "dbname", "user", "keepalives",
        "sslmode", "target_session_attrs", "client_encoding", "mode", "cache", "timeout", "uri",
    }
)  # fmt: skip
DRIVERS = {"postgresql": "postgresql+psycopg", "postgres": "postgresql+psycopg"}


def parsed(url: str) -> str:
    """The URL as SQLAlchemy takes it, PostgreSQL through psycopg. Raises UserError, without the URL's password."""
    from sqlalchemy.engine import make_url
    from sqlalchemy.exc import ArgumentError

    try:
        found = make_url(url)
    except (ArgumentError, ValueError):
        raise UserError("--storage is no URL; give postgresql://USER:PASSWORD@HOST/DATABASE") from None
    name = DRIVERS.get(found.drivername, found.drivername)
    if name not in ("sqlite", "postgresql+psycopg"):
        raise UserError(f"--storage: {name} is not supported; give postgresql://... or sqlite:///FILE")
    # What stands behind the first of two "@" would be taken for the host, and be printed as that.
    if name != "sqlite" and url.count("@") > 1:
        raise UserError("--storage: write an @ in a user name or a password as %40")
    return found.set(drivername=name).render_as_string(hide_password=False)


def shown(url: str) -> str:
    """The URL with its password starred out, for people to read, and every value of its query that is no setting known
    to be harmless."""
    from sqlalchemy.engine import make_url

    found = make_url(url)
    query = {name: value if name in HARMLESS else "***" for name, value in found.query.items()}
    return found.set(query=query).render_as_string(hide_password=True).replace("%2A%2A%2A", "***")


def scrubbed(text: str, url: str) -> str:
    """A message in which the URL's password, as it is and as URLs write it, is starred out."""
    from urllib.parse import quote, quote_plus

    from sqlalchemy.engine import make_url

    found = make_url(url)
    secrets = {str(found.password)} if found.password else set()
    for name, value in found.query.items():
        if name not in HARMLESS:
            secrets |= {value} if isinstance(value, str) else set(value)
    secrets |= {form(secret) for secret in list(secrets) for form in (quote, quote_plus)}
    for secret in sorted(filter(None, secrets), key=len, reverse=True):
        text = text.replace(secret, "***")
    text = re.sub(r"(?i)((?:password|passwd|pwd|secret|token)\s*=\s*)('[^']*'|[^\s&]+)", r"\1***", text)
    return re.sub(r"(://[^:/@\s]*:)\S*@", r"\1***@", text)


def unusable(url: str, error: BaseException) -> UserError:
    """In one line why a server cannot be used."""
    reason = error.__cause__ or error
    text = scrubbed(" ".join(str(getattr(reason, "orig", None) or reason).split()), url)
    return UserError(f"--storage {shown(url)} cannot be used: {text[:300]}; check that the server runs and lets you in")
