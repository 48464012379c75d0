"""The conformance suite: what every part of a family must do; plugin authors and the built-ins run the same.

`framework plugins test PACKAGE` runs it over all parts of a package; in a package's own tests:

    from framework.testing.samplers import CHECKS

    @pytest.mark.parametrize("check", CHECKS)
    def test_conformance(check):
        check(TopNSigma(n=1.0))

Each module `framework.testing.<family>` has `CHECKS`, functions that take a part and raise AssertionError. Checks take an instance;
those of optimizers take the class, or any callable that makes an optimizer from parameter groups, and those of networks a callable
that makes a network from `vocab_size` and `context_length`.

A part that needs further arguments names an example in its package's pyproject.toml, an entry point called `<family>.<Name>`:

    [project.entry-points."framework.testing"]
    "samplers.TopNSigma" = "framework_top_n_sigma:example"

An example takes nothing and returns an instance, or None where it cannot be made (a file that is not there); that of an optimizer or
a network takes what is said above.
"""
