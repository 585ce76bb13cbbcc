"""Where a net can be cut, what crosses there, and that cutting it changes nothing.

    python examples/cut_any_net.py --net resnet18 --image 64

``--net`` is any net that ``eaves nets`` lists; with the vision extra also ``timm:NAME`` and
``torchvision:NAME``; or a net of your own, as ``examples/own_net.py:OwnNet``.
"""

import argparse

import torch

import eaves


def main() -> None:
    parser = argparse.ArgumentParser(description="Show every cut of a net and what crosses there.")
    parser.add_argument("--net", default="resnet18")
    parser.add_argument("--image", type=int, default=64, help="height and width, in pixels")
    parser.add_argument("--smoke", action="store_true", help="a small net, to see that it runs")
    args = parser.parse_args()

    name, side = ("resnet20", 32) if args.smoke else (args.net, args.image)
    image = torch.randn(1, 3, side, side)
    net = eaves.build_net(name, classes=10, input_shape=(3, side, side)).eval()
    codec = eaves.parse_codec("int8+zstd")
    with torch.no_grad():
        whole = net(image)
        for cut in eaves.cut_points(net):
            split = eaves.split_at(net, cut)
            features = split.edge(image)
            payload = codec.encode(features)
            same = torch.equal(split.cloud(features), whole)
            shape = "x".join(map(str, features.shape[1:]))
            print(f"{cut:<24} {shape:>12}  {len(payload):7,d} bytes as {codec.name}", end="  ")
            print("equal to the uncut net" if same else "NOT equal to the uncut net")


if __name__ == "__main__":
    main()
