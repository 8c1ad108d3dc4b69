"""The names that `ssl-lightning backbones` prints, known without importing torch.

Any other model of torchvision and timm works by its own name too; `list_backbones()` asks the libraries for
all of them.
"""

OWN = ("cfn", "convnet", "dcfnet", "nin3", "nin4", "nin5", "resnet20", "resnet32", "resnet56")

TORCHVISION = (
    "alexnet",
    *("convnext_tiny", "convnext_small", "convnext_base", "convnext_large"),
    *("densenet121", "densenet161", "densenet169", "densenet201"),
    *("efficientnet_b0", "efficientnet_b1", "efficientnet_b2", "efficientnet_b3"),
    *("efficientnet_b4", "efficientnet_b5", "efficientnet_b6", "efficientnet_b7"),
    *("efficientnet_v2_s", "efficientnet_v2_m", "efficientnet_v2_l"),
    *("googlenet", "inception_v3", "maxvit_t"),
    *("mnasnet0_5", "mnasnet0_75", "mnasnet1_0", "mnasnet1_3"),
    *("mobilenet_v2", "mobilenet_v3_small", "mobilenet_v3_large"),
    *("regnet_x_400mf", "regnet_x_800mf", "regnet_x_1_6gf", "regnet_x_3_2gf"),
    *("regnet_x_8gf", "regnet_x_16gf", "regnet_x_32gf"),
    *("regnet_y_400mf", "regnet_y_800mf", "regnet_y_1_6gf", "regnet_y_3_2gf"),
    *("regnet_y_8gf", "regnet_y_16gf", "regnet_y_32gf", "regnet_y_128gf"),
    *("resnet18", "resnet34", "resnet50", "resnet101", "resnet152"),
    *("resnext50_32x4d", "resnext101_32x8d", "resnext101_64x4d"),
    *("shufflenet_v2_x0_5", "shufflenet_v2_x1_0", "shufflenet_v2_x1_5", "shufflenet_v2_x2_0"),
    *("squeezenet1_0", "squeezenet1_1"),
    *("swin_t", "swin_s", "swin_b", "swin_v2_t", "swin_v2_s", "swin_v2_b"),
    *("vgg11", "vgg11_bn", "vgg13", "vgg13_bn", "vgg16", "vgg16_bn", "vgg19", "vgg19_bn"),
    *("vit_b_16", "vit_b_32", "vit_l_16", "vit_l_32", "vit_h_14"),
    *("wide_resnet50_2", "wide_resnet101_2"),
)

# timm has more than a thousand: these are the ones that papers on representation learning use most.
TIMM = (
    *("beit_base_patch16_224", "beitv2_base_patch16_224"),
    *("cait_s24_224", "coatnet_0_224", "convmixer_768_32"),
    *(
        "convnext_atto",
        "convnext_femto",
        "convnext_nano",
        "convnextv2_atto",
        "convnextv2_tiny",
        "convnextv2_base",
    ),
    *("deit_tiny_patch16_224", "deit_small_patch16_224", "deit_base_patch16_224", "deit3_small_patch16_224"),
    *("edgenext_small", "efficientnetv2_rw_s", "eva02_tiny_patch14_224", "eva02_small_patch14_224"),
    *("ghostnet_100", "hiera_tiny_224", "hrnet_w18", "levit_128s", "mambaout_tiny", "maxvit_tiny_rw_224"),
    *("mixer_s16_224", "mixer_b16_224", "mobilenetv4_conv_small", "mobilevitv2_100"),
    *("nfnet_f0", "poolformer_s12", "pvt_v2_b0", "regnetz_b16", "repvgg_a0", "res2net50_26w_4s"),
    *("resnet10t", "resnet14t", "resnet26d", "resnet50d", "resnetv2_50", "rexnet_100"),
    *("seresnet18", "seresnet50", "swin_tiny_patch4_window7_224", "swin_small_patch4_window7_224"),
    *("swinv2_tiny_window8_256", "tf_efficientnetv2_s", "tinynet_a"),
    *("vit_tiny_patch16_224", "vit_small_patch16_224", "vit_base_patch16_224", "vit_large_patch16_224"),
    *("vit_small_patch32_224", "vit_base_patch32_224", "vit_small_patch8_224", "vit_base_patch8_224"),
    *("vit_small_patch14_dinov2", "vit_base_patch14_dinov2", "vit_large_patch14_dinov2"),
    *("volo_d1_224", "xception41", "xcit_nano_12_p16_224", "xcit_small_12_p16_224"),
)
