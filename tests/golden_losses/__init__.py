"""What each family of golden files holds, computed by the package."""

from tests.golden_losses import contrastive, features, measures, papers, response, vectors
from tests.golden_losses.common import Family

FAMILIES: dict[str, Family] = {
    **response.FAMILIES, **papers.FAMILIES, **features.FAMILIES, **vectors.FAMILIES,
    **contrastive.FAMILIES, **measures.FAMILIES,
}
