"""The compiled part; the rest is in pyproject.toml. Without a compiler the package is whole."""

from setuptools import Extension, setup

setup(
    ext_modules=[
        Extension(
            "pacsor_tasks._native",
            ["pacsor_tasks/_native.c"],
            extra_compile_args=["-O2"],
            optional=True,
        )
    ]
)
