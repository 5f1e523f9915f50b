"""Every tile encoder as a row of data; see `slidemill.features.spec` for what a row says.

Rows are facts: of papers, of model cards, and counted on networks built without weights. They are
checked against each other and against those figures by the tests, offline.
"""

from slidemill.features.registry import (
    general,
    handcrafted,
    hugging,
    lunit_kaiko,
    pooled,
    unavailable,
    vision,
    vision_academic,
)
from slidemill.features.spec import EncoderSpec

FAMILIES: dict[str, tuple[EncoderSpec, ...]] = {
    "Without weights": handcrafted.ROWS,
    "Everyday photographs": general.ROWS,
    "Pathology, trained on TCGA by Lunit and kaiko.ai": lunit_kaiko.ROWS,
    "Pathology, vision transformers by timm": vision.ROWS + vision_academic.ROWS,
    "Pathology, by transformers": hugging.ROWS,
    "Pathology, with text or with networks of their own": pooled.ROWS,
    "Without public weights": unavailable.ROWS,
}
"""Rows by heading, in the order of lists and documents."""

ENCODERS: dict[str, EncoderSpec] = {spec.name: spec for rows in FAMILIES.values() for spec in rows}
"""Every registered encoder by name, those without public weights last."""

if len(ENCODERS) != sum(map(len, FAMILIES.values())):
    raise ValueError("two rows of the registry have the same name")
