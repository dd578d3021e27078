"""The compiled part; all else is in pyproject.toml. Without a compiler the package is whole, too."""

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
