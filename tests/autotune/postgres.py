"""A PostgreSQL server of the tests' own: Debian's package, on loopback, on a free port, in a temporary folder."""

import os
import pwd
import shutil
import signal
import socket
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

USER, PASSWORD = "tuner", "s3cret-of-the-tests"


def programs() -> Path | None:
    """The folder of initdb and postgres; Debian keeps them off the PATH."""
    found = sorted(Path("/usr/lib/postgresql").glob("*/bin/initdb"), reverse=True)
    if found:
        return found[0].parent
    on_path = shutil.which("initdb")
    return Path(on_path).resolve().parent if on_path else None


@contextmanager
def server() -> Iterator[str]:
    """Its URL. PostgreSQL refuses to run as root, so it then runs as nobody."""
    bin_folder = programs()
    assert bin_folder is not None
    with tempfile.TemporaryDirectory(prefix="pg-", ignore_cleanup_errors=True) as name:
        folder = Path(name)
        password = folder / "password"
        password.write_text(PASSWORD)
        who = None
        if os.geteuid() == 0:
            nobody = pwd.getpwnam("nobody")
            for path in (folder, password):
                os.chown(path, nobody.pw_uid, nobody.pw_gid)
            who = nobody.pw_uid
        data = folder / "data"
        settings = ("-U", USER, "--auth=scram-sha-256", f"--pwfile={password}", "-E", "UTF8", "--locale=C", "-N")
        subprocess.run([bin_folder / "initdb", "-D", data, *settings], check=True, user=who, cwd=folder,
                       stdout=subprocess.DEVNULL)  # fmt: skip
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        command = (bin_folder / "postgres", "-D", data, "-p", str(port), "-k", folder,
                   "-c", "listen_addresses=127.0.0.1", "-c", "fsync=off", "-c", "max_connections=60")  # fmt: skip
        with (folder / "log").open("w") as log:
            running = subprocess.Popen(command, user=who, cwd=folder, stdout=log, stderr=log)
        try:
            ready = (bin_folder / "pg_isready", "-q", "-h", "127.0.0.1", "-p", str(port), "-t", "1")
            for _ in range(60):
                if subprocess.run(ready).returncode == 0:
                    break
                assert running.poll() is None, (folder / "log").read_text()
            yield f"postgresql+psycopg://{USER}:{PASSWORD}@127.0.0.1:{port}/postgres"
        finally:
            running.send_signal(signal.SIGINT)  # does not wait for clients to go
            running.wait(20)
