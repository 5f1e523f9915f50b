"""Convolutional networks of torchvision whose checkpoints have no classifier.

Arguments of a row: `model`, a name of torchvision's; only ResNets are known here.
"""

from torch import Tensor
from torchvision.models import resnet

from slidemill.features.network import Network, Tokens
from slidemill.features.spec import EncoderSpec


class ResNetNetwork(Network):
    """A ResNet without its classifier; it pools by the mean of its last map."""

    def forward(self, images: Tensor) -> Tokens:
        """Run the network on (N, 3, H, W) float images; see `Network`."""
        last: Tensor = self.body(images)
        return Tokens(patches=last.permute(0, 2, 3, 1), pooled=last.mean(dim=(2, 3)))


class _Trunk(resnet.ResNet):  # type: ignore[misc] # torchvision has no types
    """Up to the last map; names of weights as in torchvision."""

    def __init__(self, layers: list[int]) -> None:
        super().__init__(resnet.Bottleneck, layers)
        self.width = int(self.fc.in_features)
        del self.fc

    def forward(self, images: Tensor) -> Tensor:
        stem = self.maxpool(self.relu(self.bn1(self.conv1(images))))
        last: Tensor = self.layer4(self.layer3(self.layer2(self.layer1(stem))))
        return last


_LAYERS = {"resnet50": [3, 4, 6, 3], "resnet101": [3, 4, 23, 3]}


def build(spec: EncoderSpec) -> Network:
    """A network with random weights."""
    body = _Trunk(_LAYERS[str(spec.arguments["model"])])
    return ResNetNetwork(body, body.width, 0)


def convert(spec: EncoderSpec, network: Network, state: dict[str, Tensor]) -> dict[str, Tensor]:
    """A published state dict, whose classifier is left out if it is there."""
    return {key: value for key, value in state.items() if not key.startswith("fc.")}
