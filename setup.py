"""Puts recipes/ and configs/ into the wheel, as framework/share; everything else is in pyproject.toml."""

from __future__ import annotations

import shutil
from pathlib import Path

from setuptools import setup
from setuptools.command.build_py import build_py

ROOT = Path(__file__).parent


class BuildWithShare(build_py):
    """Copies while it builds, so that the source tree never holds two; an editable installation uses the checkout's own."""

    def run(self) -> None:
        """Build the package, then its share, without files that an earlier build left."""
        super().run()
        if self.editable_mode:
            return
        share = Path(self.build_lib) / "framework" / "share"
        shutil.rmtree(share, ignore_errors=True)
        for folder in ("recipes", "configs"):
            shutil.copytree(ROOT / folder, share / folder)


setup(cmdclass={"build_py": BuildWithShare})
