"""Packaging: pip install ."""

from setuptools import find_packages, setup

EXPORT = ["onnx", "onnxscript"]  # ONNX files of trained detectors
TIMM = ["timm>=1.0"]  # TimmBackbone

# supervision and torchmetrics: the tests pass detections to them
TEST = [*EXPORT, *TIMM, "onnxruntime", "pytest", "ruff", "safetensors", "supervision", "torchmetrics"]

setup(
    name="detlite",
    version="0.1.0",
    description="The VGG16 Faster R-CNN, built from interchangeable parts that a YAML config names",
    long_description=open("README.md", encoding="utf-8").read(),
    long_description_content_type="text/markdown",
    license="Apache-2.0",
    package_dir={"": "."},  # makes -e add a path: its import hook would lose to a folder with the clone's name
    packages=find_packages(include=["detlite", "detlite.*"]),
    package_data={
        "detlite.inspection.report": ["web/*.html", "web/*.css", "web/*.js"],
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
        "test": TEST,
        "dev": [*TEST, "build"],
    },
    entry_points={"console_scripts": ["detlite=detlite.cli:main"]},
)
