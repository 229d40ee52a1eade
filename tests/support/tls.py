"""Certificates of authorities that exist for one test run, made with the program `openssl`."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path
from typing import NamedTuple

__all__ = ["Authority", "Certificate", "openssl"]

TIMEOUT = 30.0
# From Python 3.13 on, certificates are checked as strictly as the standard (RFC 5280) has it.
_SIGNS = ("-addext", "keyUsage=critical,keyCertSign,cRLSign")
_IDENTIFIED = "subjectKeyIdentifier=hash\nauthorityKeyIdentifier=keyid\n"
_NEW_KEY = ("-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes")


def openssl() -> str | None:
    """The program's path, if it is installed."""
    return shutil.which("openssl")


class Certificate(NamedTuple):
    """Two PEM files."""

    certificate: Path
    key: Path


class Authority:
    """Signs certificates. Its own is in `file`."""

    def __init__(self, folder: Path, name: str) -> None:
        self._folder = folder
        self._name = name
        self.file = folder / f"{name}-ca.pem"
        self._key = folder / f"{name}-ca.key"
        words = ("req", "-x509", *_NEW_KEY, *_SIGNS, "-days", "2", "-subj", f"/CN={name}")
        _run(*words, "-keyout", self._key, "-out", self.file)

    def certify(self, *hosts: str) -> Certificate:
        """A certificate for these host names and addresses."""
        stem = self._folder / f"{self._name}-{hosts[0]}"
        made = Certificate(stem.with_suffix(".pem"), stem.with_suffix(".key"))
        request, extensions = stem.with_suffix(".csr"), stem.with_suffix(".ext")
        names = [f"IP:{host}" if host[0].isdigit() else f"DNS:{host}" for host in hosts]
        extensions.write_text(f"subjectAltName={','.join(names)}\n{_IDENTIFIED}")
        words = ("req", *_NEW_KEY, "-subj", f"/CN={hosts[0]}")
        _run(*words, "-keyout", made.key, "-out", request)
        signed_by = ("-CA", self.file, "-CAkey", self._key, "-CAcreateserial")
        files = ("-extfile", extensions, "-in", request, "-out", made.certificate)
        _run("x509", "-req", "-days", "2", *signed_by, *files)
        return made


def _run(*words: str | Path) -> None:
    program = openssl()
    assert program is not None
    command = [program, *(str(word) for word in words)]
    done = subprocess.run(command, capture_output=True, timeout=TIMEOUT, check=False)
    assert done.returncode == 0, done.stderr.decode(errors="replace")
