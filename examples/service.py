"""A classifier in service meets new classes one example at a time, and is right about each from then on.

No optimizer and no training: ``add_classes`` makes room, ``write`` stores the example. After a hundred new classes the
old ones are still told apart.
"""

import torch
import torch.nn.functional as F

from firstsight import HebbianSoftmax

OLD, NEW, WIDTH = 10, 100, 64


def see(centres, labels):
    """Features as a body would make them: a noisy point on the unit sphere, stretched to length 5."""
    return 5 * F.normalize(centres[labels] + 0.05 * torch.randn(len(labels), WIDTH), dim=-1)


def main():
    torch.manual_seed(0)
    centres = F.normalize(torch.randn(OLD + NEW, WIDTH), dim=-1)
    head = HebbianSoftmax(WIDTH, OLD, T=10, gamma=0.1)
    known = torch.arange(OLD)
    head.write(see(centres, known), known)

    for label in range(OLD, OLD + NEW):
        y = torch.tensor([label])
        head.add_classes(1)  # firstsight
        head.write(see(centres, y), y)  # firstsight
        assert head(see(centres, y)).argmax(-1) == label, "known after one example"

    labels = torch.arange(OLD + NEW).repeat(20)
    with torch.no_grad():
        right = (head(see(centres, labels)).argmax(-1) == labels).float().mean()
    print(f"{head.num_classes} classes, one example of each: {right:.1%} of 20 new examples of each are recognised")
    assert right > 0.99


if __name__ == "__main__":
    main()
