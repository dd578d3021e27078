"""The compiled part; the rest is in pyproject.toml. Without a compiler the package is whole."""

import zlib
from pathlib import Path

from setuptools import Extension, setup

SOURCE = "pacsor_tasks/_native.c"

setup(
    ext_modules=[
        Extension(
            "pacsor_tasks._native",
            [SOURCE],
            # By which pacsor_tasks/native.py knows whether the source beside it is still this one.
            define_macros=[("SOURCE_CRC", str(zlib.crc32(Path(SOURCE).read_bytes())))],
            extra_compile_args=["-O2"],
            optional=True,
        )
    ]
)
