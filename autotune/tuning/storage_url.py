"""The URL of a server that workers share, and what may be said of it: never its password."""

import re

from autotune import UserError

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
    return found.set(drivername=name).render_as_string(hide_password=False)


def shown(url: str) -> str:
    """The URL with its password starred out, for people to read."""
    from sqlalchemy.engine import make_url

    return make_url(url).render_as_string(hide_password=True)


def scrubbed(text: str, url: str) -> str:
    """A message in which the URL's password, as it is and as URLs write it, is starred out."""
    from urllib.parse import quote, quote_plus

    from sqlalchemy.engine import make_url

    found = make_url(url)
    secrets = {str(found.password)} if found.password else set()
    secrets |= {form(secret) for secret in list(secrets) for form in (quote, quote_plus)}
    for secret in sorted(secrets, key=len, reverse=True):
        text = text.replace(secret, "***")
    return re.sub(r"(://[^:/@\s]*:)[^@\s]*@", r"\1***@", text)


def unusable(url: str, error: BaseException) -> UserError:
    """In one line why a server cannot be used."""
    reason = error.__cause__ or error
    text = scrubbed(" ".join(str(getattr(reason, "orig", None) or reason).split()), url)
    return UserError(f"--storage {shown(url)} cannot be used: {text[:300]}; check that the server runs and lets you in")
