"""Paper 004's config: what it measures without being asked to."""

from configs import das2020_cifar10
from kdaug_jax.experiment import config as configs


def test_reliability_people_and_cinic_are_evaluated():
    plain = configs.validate(configs.plain(das2020_cifar10.get_config("")))
    assert "reliability" in plain["eval"]["metrics"] and plain["eval"]["sets"] == ()
    options = "human=counts.npy,cinic=data/CINIC-10,select=best_test_loss"
    full = configs.validate(configs.plain(das2020_cifar10.get_config(options)))
    assert {"reliability", "human"} <= set(full["eval"]["metrics"])
    assert full["eval"]["human"] == "counts.npy"
    assert full["eval"]["sets"] == (("cinic", "cinic10:data/CINIC-10,stratified(test[20000:])"),)
    assert full["checkpoint"]["best"] == "eval/validation/nll"
