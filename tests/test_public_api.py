"""What the package exports: a name that comes or goes is a decision, written down here."""

import importlib
import subprocess
import sys

import pytest

EXPORTS = {
    "kdaug_jax": """
        analysis augment data deploy errors evaluation experiment images losses metrics models
        registry rng runtime training types
    """,
    "kdaug_jax.augment": """
        Box Colours OPS Op OpRow STAGES Stage Values affine affine_bicubic affine_bilinear
        affine_coefficients affine_nearest apply_lut apply_ops apply_policy apply_rgb_lut
        auto_contrast blend blend_colours blend_lut blur brightness center_box center_crop color
        contrast contrast_lut crop_center crop_random cutmix cutout describe_ops draw_box
        draw_inception_box efficientnet_crop equalize equalize_lut erase_square exact_coefficients
        flip function_op geometric_op histogram identity inception_crop invert luma lut lut_op
        mean_luma mixup pad_crop paint policies posterize premultiply random_cutmix random_cutout
        random_flip random_mixup random_mixup_or_cutmix random_pad_crop random_resized_crop resize
        resize_box resize_box_tensorflow resize_shorter resize_tensorflow rotate rotation sharpness
        shear_x shear_y smooth solarize solarize_add split_alpha statistics_op stencil_op
        stretch_lut to_bytes torchvision tpu translate_x translate_y unpremultiply with_alpha
    """,
    "kdaug_jax.augment.engine": """
        Colours Table apply_ops apply_policy build_table slow_ops
    """,
    "kdaug_jax.augment.policies": """
        HparamSpec IDENTITY Op Policy SOURCES SPACES TABLES VARIANTS WEI2020 autoaugment box
        check_policy fixmatch pba randaugment randaugment_candidates read_schedule schedule
        square_offsets timm trivialaugment_wide wei2020 wei2020_levels
    """,
    "kdaug_jax.data": """
        ArrayReader Dataset Feed HostCrops ImageReader ReadOptions Reader SOURCES Split
        check_eval_memory describe eval_batches fits from_arrays indices joined load load_test
        make_feed numbered overlaps read_human register resident streamed
    """,
    "kdaug_jax.evaluation": """
        Metric MetricInputs Settings mean_metric
    """,
    "kdaug_jax.experiment": """
        config networks optim phases program schedules sections terms views
    """,
    "kdaug_jax.experiment.views": """
        Call Cutter EPOCH Leading Made POOLS Prefix Rows STAGES Scorer ViewSpec batch_shapes
        build_augment check_place cut_image cutter describe draws_of host_numbers hparams make
        make_all make_hosted make_in_pairs mixes_pairs networks_of parse parse_all picks place
        rows_after source_of split_leading unmixed views_to_make with_crops
    """,
    "kdaug_jax.losses": """
        LOSSES Loss PICKERS Term a2aug ab at average_teachers binary_cross_entropy cc crd
        cross_entropy cross_entropy_kd dist dkd dml ensemble_distance ensemble_logits entropy fitnet
        fsp ft gram_of_classes gram_of_examples hard_kd hardest ii_kd info_nce kd_svd kept_ratio kl
        kl_score l2_normalized label_disagreement lskd mhgd mlkd nst ofd pkt reviewkd rkd rkd_angle
        rkd_distance rkd_role sp standardize top_classes topk_kl vid
    """,
    "kdaug_jax.metrics": """
        ClassSums Discrimination GROUP Moments Reliability UnitSums accuracy agreement brier
        answered class_discrimination class_means class_separability class_sums confusion ece
        effective_classes gaps group_sums human_cross_entropy human_kl human_kl_class human_kl_total
        kl_matrix mce mean merge merge_moments moments nll precision_recall_f1 predictive_kl
        reliability t_stddev top_k_accuracy unanswered unit_sums
    """,
    "kdaug_jax.models": """
        Model check create fold_batchnorm is_foreign names register take_branch
    """,
    "kdaug_jax.runtime": """
        checkpoint compile_cache console sharding workdir writer
    """,
    "kdaug_jax.training": """
        loop plan population preview setup state step teachers
    """,
    "kdaug_jax.deploy": """
        artifact export predict
    """,
    "kdaug_jax.analysis": """
        bars calibration compare curves embeddings figures gallery matrices pictures plots rank_da
    """,
}


@pytest.mark.parametrize("module", EXPORTS)
def test_a_package_exports_these_names(module):
    package = importlib.import_module(module)
    assert sorted(package.__all__) == sorted(EXPORTS[module].split())
    assert all(getattr(package, name) is not None for name in package.__all__)


def test_subpackages_are_imported_on_first_use():
    code = (
        "import sys, kdaug_jax as kd; assert 'jax' not in sys.modules; "
        "assert kd.losses.kl and kd.experiment.views.build_augment; "
        "assert 'losses' in dir(kd) and not hasattr(kd, 'loses')"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_every_exported_function_is_documented():
    missing = [
        f"{module}.{name}"
        for module, names in EXPORTS.items()
        for name in names.split()
        if callable(value := getattr(importlib.import_module(module), name)) and not value.__doc__
    ]
    assert missing == []
