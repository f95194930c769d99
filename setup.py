"""Maps the top-level folders of the Kubeflow convention into one import package beside the library; the rest is in pyproject.toml."""

from setuptools import find_packages, setup

KFP_FOLDERS = ("components", "images", "pipelines")


def kfp_packages(folder: str) -> list[str]:
    """Import names of `folder` and of every package below it, as distillery_kfp.<folder>..."""
    return [f"distillery_kfp.{folder}", *(f"distillery_kfp.{folder}.{name}" for name in find_packages(folder))]


setup(
    packages=[*find_packages("src"), *(name for folder in KFP_FOLDERS for name in kfp_packages(folder))],
    package_dir={"": "src", **{f"distillery_kfp.{folder}": folder for folder in KFP_FOLDERS}},
    package_data={
        "distillery": ["py.typed"],
        "distillery.placement": ["profiles/*.yaml"],
        "distillery.reporting": ["*.css", "*.j2"],
        "distillery.recipes": ["*/*.yaml"],
        "distillery_kfp.components": ["*/*/metadata.yaml"],
        "distillery_kfp.images": ["*.yaml"],
    },
)
