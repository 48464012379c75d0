"""The conformance suite: what every part of a family must do; plugin authors and the built-ins run the same.

`framework plugins test PACKAGE` runs it over all parts of a package; in a package's own tests:

    from framework.testing.samplers import CHECKS

    @pytest.mark.parametrize("check", CHECKS)
    def test_conformance(check):
        check(TopNSigma(n=1.0))

Each module `framework.testing.<family>` has `CHECKS`, functions that take a part and raise AssertionError. Checks take an instance;
those of optimizers take the class, or any callable that makes an optimizer from parameter groups.

A part whose `__init__` has required arguments names an example in its package's pyproject.toml, an entry point called `<family>.<Name>`:

    [project.entry-points."framework.testing"]
    "samplers.TopNSigma" = "framework_top_n_sigma:example"      # takes nothing, returns an instance

An optimizer's example takes parameter groups and returns an optimizer.
"""
