"""``detlite check``."""

from detlite.cli.arguments import KEYS_HELP, config_parser, read_config
from detlite.errors import UserError

HELP = f"""Check a config before its training, and every image of its data.

The checks after the data are one evaluation, weights, anchors, a few steps, memory and disk space. Each prints one
line: pass, or a warning or error with its remedy. OUTPUT_DIR/check.json has the details. If there is an error, the
exit status is 1.

{KEYS_HELP}
examples:
  %(prog)s --config-file detlite:finetune_coco DATASETS.TRAIN.0.ROOT data/cells DATASETS.TEST.ROOT data/cells
  %(prog)s --config-file detlite:quickstart --data-only
"""


def parser(prog):
    parser = config_parser(prog, HELP)
    parser.add_argument("--data-only", action="store_true", help="check the data only")
    return parser


def run(options):
    from detlite.logs import logger
    from detlite.preparation.check import check

    if options.config_file is None and not options.opts:
        default = "without it, the default config would be checked, a VGG16 on generated shapes"
        raise UserError(f"give --config-file; {default}. `detlite init FOLDER` writes a config for your images")
    if options.config_file is None:
        logger.info("without --config-file, the default config is checked: a VGG16 on generated shapes")
    check(read_config(options), data_only=options.data_only)
