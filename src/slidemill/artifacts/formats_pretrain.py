"""Formats of the pretrain stage.

Part of `slidemill.artifacts.formats`, from where everything is imported.
"""

from slidemill.artifacts.spec import ArtifactSpec, Field, register

register(
    ArtifactSpec(
        "pretrain-metrics",
        1,
        "parquet",
        "The course of a pretraining run, one row a step. No longer written.",
        (
            Field("step", "int64", "Step, from 0."),
            Field("epoch", "int64", "Epoch, from 0."),
            Field("loss", "float64", "DINO loss, nats."),
            Field("learning_rate", "float64", "Learning rate of the step."),
            Field("teacher_momentum", "float64", "Momentum of the teacher's average."),
            Field("teacher_entropy", "float64", "Mean entropy of the teacher's outputs, nats."),
            Field("kl_to_uniform", "float64", "KL of the teacher's mean output to uniform, nats."),
            Field("gradient_norm", "float64", "Norm of the gradient before clipping."),
            Field("seconds", "float64", "Wall time since the start, seconds."),
        ),
    )
)
PRETRAIN_METRICS = register(
    ArtifactSpec(
        "pretrain-metrics",
        2,
        "parquet",
        "The course of a pretraining run, one row a step.",
        (
            Field("step", "int64", "Step, from 0."),
            Field("epoch", "int64", "Epoch, from 0."),
            Field("loss", "float64", "Sum of the weighted losses."),
            Field("dino_loss", "float64", "Cross-entropy of the slide tokens, nats."),
            Field(
                "ibot_loss",
                "float64",
                "Cross-entropy of masked tiles, nats; missing where none are masked.",
                nullable=True,
            ),
            Field(
                "regulariser",
                "float64",
                "KoLeo or KDE before its weight; missing without one.",
                nullable=True,
            ),
            Field("learning_rate", "float64", "Learning rate of the step."),
            Field("weight_decay", "float64", "Weight decay of the step."),
            Field("teacher_momentum", "float64", "Momentum of the teacher's average."),
            Field("teacher_temperature", "float64", "Temperature of the teacher."),
            Field("teacher_entropy", "float64", "Mean entropy of the teacher's outputs, nats."),
            Field("kl_to_uniform", "float64", "KL of the teacher's mean output to uniform, nats."),
            Field("rankme", "float64", "Effective rank of the step's slide embeddings (RankMe)."),
            Field("mean_cosine", "float64", "Mean cosine between embeddings of different slides."),
            Field("gradient_norm", "float64", "Norm of the gradient before clipping."),
            Field("slides", "int64", "Slides of the step, over all processes."),
            Field("tokens", "int64", "Tokens that the student saw in the step, of all processes."),
            Field("tokens_per_s", "float64", "The same a second of wall time."),
            Field("seconds", "float64", "Wall time since the start, seconds."),
        ),
    )
)
_ENCODED_BY = (
    ("slide_encoder", "label of the pretraining run"),
    ("encoder", "name of the tile encoder"),
    ("checkpoint_sha256", "sha256 of the slide encoder's checkpoint"),
)
register(
    ArtifactSpec(
        "slide-embedding",
        1,
        "hdf5",
        "Embedding of a slide by a slide encoder. No longer written.",
        (Field("features", "float32", "The embedding.", "(D,)"),),
        attributes=_ENCODED_BY,
    )
)
_READOUTS = (
    ("cls", "Class token after the last norm", "(width,)"),
    ("mean_tokens", "Mean of the tiles' tokens after the last norm", "(width,)"),
    ("layers", "Class tokens of the embedding and of every block", "(depth + 1, width)"),
)
EMBEDDING = register(
    ArtifactSpec(
        "slide-embedding",
        2,
        "hdf5",
        "What a slide encoder makes of a slide, read out in three ways, and the same of two "
        "controls: the encoder before its first step (`random_init_`: same shape, same seed), and "
        "the trained one on the same tiles with their places permuted among them (`shuffled_`).",
        tuple(
            Field(f"{prefix}{name}", "float32", f"{meaning}{of}.", shape)
            for prefix, of in (
                ("", ""),
                ("random_init_", ", of the encoder before its first step"),
                ("shuffled_", ", with the places of the tiles permuted"),
            )
            for name, meaning, shape in _READOUTS
        ),
        attributes=(
            *_ENCODED_BY,
            ("patients", "who it was trained on: per-fold, split or all"),
        ),
    )
)
