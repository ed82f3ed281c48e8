"""Write the tables of every study into its page, and draw plots, from the records in docs/results/.

python -m benchmarks.studies.page
"""

from pkgutil import resolve_name

from benchmarks.studies import first_screen, nested
from benchmarks.studies.study import Study

STUDIES = (
    *(
        "architectures.STUDY",
        "architectures.LAYOUT_STUDY",
        "binarization.STUDY",
        "bit_diagnosis.STUDY",
        "bit_embeddings.STUDY",
        "choosers.STUDY",
        "contrastive.STUDY",
        "corpus.STUDY",
        "demo.STUDY",
        "deploy.STUDY",
        "embedding_shapes.STUDY",
        "embeddings.STUDY",
        "layout_embeddings.STUDY",
    ),
    *(f"embedding_students.{name}" for name in ("CASCADE", "GUIDE", "PLAIN", "SPEED", "VECTORS")),
    *("first_screen.STUDY", "further_pretraining.STUDY", "gradient_free.QUALITY", "gradient_free.SPEED"),
    *("kept_layers.STUDY", "multi_vector.STUDY", "nested.STUDY"),
    *("other_teachers.DEPTH", "other_teachers.EMBEDDINGS", "other_teachers.WAYS", "reranker.STUDY"),
    *("retrieval.STUDY", "retrieval.SPACE", "retrieval.RIVALS", "sparse.STUDY"),
    *("tasks.STUDY", "vocabulary.MULTILINGUAL", "vocabulary.STUDY"),
)
"""Each study as the module of this folder that has it, and its name there."""


def study_named(name: str) -> Study:
    """Import the module of a study; returns the study."""
    return resolve_name(f"benchmarks.studies.{name}")


def main() -> None:
    for study in map(study_named, STUDIES):
        study.page.write_text(study.page_text(), encoding="utf-8")
    first_screen.draw()
    if rows := nested.STUDY.read():
        nested.draw(rows)


if __name__ == "__main__":
    main()
