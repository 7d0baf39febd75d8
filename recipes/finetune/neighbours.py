"""k-nearest-neighbour classification on frozen features: cosine similarity, majority of the k, nothing to fit. The same for all modalities.

Shapes: N examples, Q queries, D features, K neighbours, C classes.
"""

import torch.nn.functional as F
from torch import Tensor

from recipes.finetune.ridge import LabelledFeatures, validation_cut
from recipes.finetune.score import Score, best_layer

NEIGHBOURS = (1, 5, 10, 20)


def best_neighbours(train: LabelledFeatures, test: LabelledFeatures, num_classes: int) -> Score:
    """Return the accuracy of k-nearest-neighbour classification on `test`, with all examples of `train` as possible neighbours. Layer and k
    are chosen before on the last 20 % of `train`, with the rest as neighbours."""
    cut = validation_cut(len(train.labels_N))
    validated, tested = [], []
    for features_ND, test_ND in zip(train.layers, test.layers, strict=True):
        predicted = vote(features_ND[:cut], train.labels_N[:cut], features_ND[cut:], num_classes)
        validated.append(max((_accuracy(classes_Q, train.labels_N[cut:]), float(k)) for k, classes_Q in predicted.items()))
        classes_Q = vote(features_ND, train.labels_N, test_ND, num_classes)[int(validated[-1][1])]
        tested.append(_accuracy(classes_Q, test.labels_N))
    return best_layer(validated, tested, len(test.labels_N))


def vote(known_ND: Tensor, labels_N: Tensor, query_QD: Tensor, num_classes: int) -> dict[int, Tensor]:
    """Return k -> predicted class of each query (Q,), for k = 1, 5, 10, 20 (NEIGHBOURS) up to the number of known examples. The class is
    the majority of the k nearest neighbours; in a tie the nearer ones decide. The mean of the known features is subtracted from all
    features, since a part that all have in common would make every cosine nearly 1."""
    mean_D = known_ND.double().mean(0)
    similarity_QN = F.normalize(query_QD.double() - mean_D) @ F.normalize(known_ND.double() - mean_D).T
    most = min(max(NEIGHBOURS), len(labels_N))
    weight_QK, nearest_QK = similarity_QN.topk(most, dim=1)
    votes_QKC = F.one_hot(labels_N[nearest_QK], num_classes).double() + 1e-6 * weight_QK.unsqueeze(-1)
    votes_QKC = votes_QKC * F.one_hot(labels_N[nearest_QK], num_classes)
    return {k: votes_QKC[:, :k].sum(1).argmax(1) for k in NEIGHBOURS if k <= most}


def _accuracy(classes_Q: Tensor, labels_Q: Tensor) -> float:
    return float((classes_Q == labels_Q).double().mean())
