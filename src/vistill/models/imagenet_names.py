"""Names of the classes of classifiers of ImageNet that name none themselves."""

from collections import Counter
from collections.abc import Mapping


def imagenet_classes(outputs: int) -> Mapping[str, int]:
    """The output of every name of a class of the ImageNet that has so many: its wnid, and what
    WordNet calls it (`tench, Tinca tinca`, or `tench` alone) where no other class is called so.

    Empty where there is no such ImageNet (1,000 classes; 11,221, 11,821, 21,841 to 21,843).
    """
    # Imported here: only tests of such a classifier need it.
    from timm.data.imagenet_info import ImageNetInfo, infer_imagenet_subset

    subset = infer_imagenet_subset({"num_classes": outputs})
    if subset is None:
        return {}
    names = ImageNetInfo(subset)
    called = [names.index_to_description(number) for number in range(outputs)]
    found: dict[str, int] = {}
    for words in ([words.partition(",")[0] for words in called], called):
        often = Counter(words)
        found |= {word: number for number, word in enumerate(words) if often[word] == 1}
    return found | {names.index_to_label_name(number): number for number in range(outputs)}
