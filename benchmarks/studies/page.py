"""Write the tables of every study into its page, from the records in docs/results/.

python -m benchmarks.studies.page
"""

from benchmarks.studies import (
    architectures,
    binarization,
    embedding_speed,
    embedding_tasks,
    embeddings,
    further_pretraining,
    gradient_free,
    vocabulary,
)

STUDIES = {
    "architectures": architectures.STUDY,
    "binarization": binarization.STUDY,
    "embedding_speed": embedding_speed.STUDY,
    "embedding_tasks": embedding_tasks.STUDY,
    "embeddings": embeddings.STUDY,
    "further_pretraining": further_pretraining.STUDY,
    "gradient_free, kernel": gradient_free.KERNEL,
    "gradient_free, quality": gradient_free.QUALITY,
    "gradient_free, speed": gradient_free.SPEED,
    "vocabulary": vocabulary.STUDY,
}


def main() -> None:
    for study in STUDIES.values():
        study.show()


if __name__ == "__main__":
    main()
