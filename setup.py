"""Fills the dynamic fields of pyproject.toml from settings.ini, the one home of requirements and extras."""

from configparser import ConfigParser

from setuptools import setup


def lines(text: str) -> list[str]:
    return [line.strip() for line in text.splitlines() if line.strip()]


config = ConfigParser(delimiters=["="])
config.read("settings.ini", encoding="utf-8")
settings = config["DEFAULT"]
extras = {name: lines(value) for name, value in config["extras"].items() if name not in config.defaults()}
alone = ("dev", "docling", "presidio", "ray")  # large, and of use to few: asked for by name
extras["all"] = sorted({requirement for name, value in extras.items() if name not in alone for requirement in value})

setup(
    version=settings["version"],
    description=settings["description"],
    install_requires=lines(settings["requirements"]),
    extras_require=extras,
)
