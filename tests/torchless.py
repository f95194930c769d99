"""A process in which torch cannot be found, as where it is not installed: in the image of tools."""

WITHOUT_TORCH = """import sys

class Missing:
    @staticmethod
    def find_spec(name, path=None, target=None):
        if name.partition(".")[0] in ("torch", "torchvision"):
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)

sys.meta_path.insert(0, Missing)
"""
"""Goes before what the process is to do."""
