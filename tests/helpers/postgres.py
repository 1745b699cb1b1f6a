"""A PostgreSQL of its own on loopback, where the server is installed."""

import os
import pwd
import shutil
import socket
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


def binaries() -> Path | None:
    """The folder of ``initdb`` and ``pg_ctl``; None where there is no server."""
    found = shutil.which("pg_ctl")
    others = sorted(Path("/usr/lib/postgresql").glob("*/bin/pg_ctl"), reverse=True)
    path = Path(found).resolve() if found else next(iter(others), None)
    return path.parent if path else None


@contextmanager
def running() -> Iterator[str]:
    """The URL of an empty database, whose server lives as long as the block."""
    bin_, folder = binaries(), Path(tempfile.mkdtemp(prefix="firstsight-postgres-", dir="/tmp"))
    account = _account()
    if account:  # the server refuses to run as root
        os.chown(folder, account.pw_uid, account.pw_gid)
    options = {"user": account.pw_uid, "group": account.pw_gid} if account else {}

    def call(name: str, *arguments: str) -> None:
        command = [str(bin_ / name), *arguments]
        subprocess.run(command, check=True, capture_output=True, cwd=folder, timeout=100, **options)

    data = str(folder / "data")
    try:
        call("initdb", "-D", data, "-U", "tester", "-A", "trust", "--no-sync", "--encoding=UTF8", "--locale=C")
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        told = f"-h 127.0.0.1 -p {port} -c unix_socket_directories='' -c fsync=off"
        call("pg_ctl", "-D", data, "-w", "-l", str(folder / "log"), "-o", told, "start")
        try:
            yield f"postgresql://tester@127.0.0.1:{port}/postgres"
        finally:
            call("pg_ctl", "-D", data, "-m", "immediate", "stop")
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _account() -> pwd.struct_passwd | None:
    """Whose the server is where the tests run as root."""
    if os.getuid():
        return None
    names = {entry.pw_name: entry for entry in pwd.getpwall()}
    return names.get("postgres") or names["nobody"]
