"""Where the papers' data sets come from: the files of each, and their checksums.

Source: torchvision's and TensorFlow Datasets' lists, the sets' own pages.
"""

from __future__ import annotations

_CIFAR = "https://www.cs.toronto.edu/~kriz/"
# By name of the source: files, their MD5 ("" where none is published), and where they come from.
ORIGINS: dict[str, tuple[tuple[tuple[str, str], ...], str]] = {
    "cifar10": ((("cifar-10-python.tar.gz", "c58f30108f718f92721af3b95e74349a"),
                 ("cifar-10-binary.tar.gz", "c32a1d4ab5d03f1284b67883e8d87530")), _CIFAR),
    "cifar100": ((("cifar-100-python.tar.gz", "eb9058c3a382ffc7106e4002c42a8d85"),
                  ("cifar-100-binary.tar.gz", "03b5dce01913d631647c71ecec9e9cb8")), _CIFAR),
    "cinic10": ((("CINIC-10.tar.gz", "6ee4d0c996905fe93221de577967a372"),),
                "https://datashare.ed.ac.uk/handle/10283/3192"),
    "folder": ((("ILSVRC2012_img_train.tar", "1d675b47d978889d74fa0da5fadfb00e"),
                ("ILSVRC2012_img_val.tar", "29b22e2961454d5413ddabcf34fc5622")),
               "https://image-net.org/challenges/LSVRC/2012/ (ImageNet)"),
    "idx": ((("train-images-idx3-ubyte.gz", "f68b3c2dcbeaaa9fbdd348bbdeb94873"),
             ("train-labels-idx1-ubyte.gz", "d53e105ee54ea40749a09fcbcd1e9432"),
             ("t10k-images-idx3-ubyte.gz", "9fb629c4189551a2d022fa330f9573f3"),
             ("t10k-labels-idx1-ubyte.gz", "ec29112dd5afa0611ce80d1b7f02629c")),
            "http://yann.lecun.com/exdb/mnist/ (MNIST)"),
    "tinyimagenet": ((("tiny-imagenet-200.zip", "90528d7ca1a48142e341f4ef8d21d0de"),),
                     "http://cs231n.stanford.edu/"),
}
# Of these sets one archive is enough: they hold the same images.
_EITHER = ("cifar10", "cifar100")


def origin(source: str) -> str:
    """Returns where the files of a data source come from and their MD5; "" where it is unknown.

    Args:
      source: a `data.source`.
    """
    name = source.partition(":")[0]
    if name not in ORIGINS:
        return ""
    files, place = ORIGINS[name]
    listed = (" or " if name in _EITHER else ", ").join(
        f"{file} (MD5 {digest})" for file, digest in files
    )
    return f"{listed}, from {place}; --config.data.source={name}:DIR names their folder"
