//! Objectives that are sums of losses over the same log-probs.

use policy_loss::{
    Behavior, Divergence, KlBase, KlEstimator, KlPenalty, PolicyGradient, PolicyLossConfig, Ratio,
    Reduction, TrustRegion,
};

use super::features::{self, Feature};
use super::peers::{self, SUMS};
use super::{Directory, over_rows, reduction, with_surrogate};
use crate::case::{Case, HostAdvantages};

/// A loss among others, over the log-probs that all of them share.
#[derive(Debug, Clone)]
pub struct Term {
    /// What is computed.
    pub case: Case,
    /// What each token's loss is multiplied by, and what their sum is divided by; absent: the loss of
    /// the case is reduced as its objective says.
    pub weights: Option<(Vec<f64>, f64)>,
    /// What the loss is multiplied by.
    pub factor: f64,
}

/// A sum, and what another framework computes for it.
#[derive(Debug, Clone)]
#[allow(missing_docs)]
pub struct Sum {
    pub name: String,
    pub terms: Vec<Term>,
    /// What is added that does not depend on the log-probs.
    pub constant: f64,
    pub loss: f64,
    pub gradient: Vec<f64>,
}

/// Every case of an objective that is a sum.
///
/// # Panics
///
/// The file is missing or damaged.
pub fn cases(directory: &Directory) -> Vec<Sum> {
    let all = features::cases(directory).into_iter();
    let of_sums = all.filter(|it| SUMS.contains(&it.feature.as_str()) || adds_cross_entropy(it));
    let cases: Vec<_> = of_sums.map(|it| sum(&it)).collect();
    directory.assert_count(features::FILE, cases.len(), 15);
    cases
}

/// Whether NeMo-RL's policy loss has a cross entropy beside it.
pub(super) fn adds_cross_entropy(it: &Feature) -> bool {
    it.feature == "clipped pg (NeMo-RL)" && it.has("rewards")
}

fn sum(it: &Feature) -> Sum {
    let (terms, constant) = match it.feature.as_str() {
        "component sum (prime-rl)" => (components(it), 0.0),
        "chord (ms-swift)" => chord(it),
        "sdar" => sdar(it),
        _ => (with_cross_entropy(it), 0.0),
    };
    Sum {
        name: it.name.clone(),
        terms,
        constant,
        loss: it.expected("loss")[0],
        gradient: it.expected("grad_log_probs"),
    }
}

/// The loss of a whole case.
fn whole(case: Case) -> Term {
    Term {
        case,
        weights: None,
        factor: 1.0,
    }
}

/// Token losses times weights, over the number of weights that are not 0: the mask is these.
fn weighted(mut case: Case, weights: Vec<f64>) -> Term {
    case.action_mask = Some(weights.iter().map(|weight| *weight != 0.0).collect());
    let count = f64::max(case.valid_tokens() as f64, 1.0);
    Term {
        case,
        weights: Some((weights, count)),
        factor: 1.0,
    }
}

/// `-weight * log_probs`: a policy gradient whose advantages are the weights.
fn cross_entropy(mut case: Case, weights: Vec<f64>) -> Case {
    case.on_policy = true;
    case.advantages = HostAdvantages::Token(weights);
    case.with_config(with_surrogate(PolicyGradient::new()))
}

/// Of reinforcement learning, of cross entropy and of distillation, each with its own tokens.
fn components(it: &Feature) -> Vec<Term> {
    let mut terms = Vec::new();
    let mut rl = peers::case(it);
    rl.config = peers::prime(it, &mut rl);
    terms.push(match it.has("rl_weights") {
        true => {
            let weights = it.input("rl_weights").into_iter().enumerate();
            let of_mask = weights.map(|(i, weight)| if rl.is_valid(i) { weight } else { 0.0 });
            let of_mask = of_mask.collect();
            weighted(rl, of_mask)
        }
        false => whole(rl),
    });
    if it.has("ce_weights") {
        let weights = it.input("ce_weights");
        let mut case = peers::case(it);
        case.action_mask = Some(weights.iter().map(|weight| *weight != 0.0).collect());
        terms.push(whole(cross_entropy(case, weights)));
    }
    if it.has("ref_kl_weights") {
        let own = &it.param("ref_kl");
        let number = |name: &str| own[name].as_f64().expect("a number");
        let mut case = peers::case(it);
        let reference = case.ref_log_probs.clone().expect("the teacher's");
        let gaps = reference.iter().zip(&case.log_probs);
        case.advantages = HostAdvantages::Token(gaps.map(|(t, own)| t - own).collect());
        // No probability rises by more than 1.
        let region = TrustRegion::new(
            Divergence::SymmetricTotalVariation,
            -number("drop_below"),
            1.0,
        );
        case.config = PolicyLossConfig::new()
            .with_ratio(Ratio::TOKEN.against(Behavior::Rollout))
            .with_surrogate(region.of_ratio())
            .with_kl_penalty(
                KlPenalty::new(2.0 * number("kl_tau"))
                    .with_estimator(KlEstimator::K2)
                    .against(KlBase::Rollout),
            );
        terms.push(weighted(case, it.input("ref_kl_weights")));
    }
    terms
}

/// An expert's tokens beside another loss, of which the file holds the value alone.
fn chord(it: &Feature) -> (Vec<Term>, f64) {
    let mu = it.expected("mu")[0];
    let case = peers::case(it);
    let weights = case.log_probs.iter().map(|log_prob| {
        let p = log_prob.exp();
        if it.flag("phi") { p * (1.0 - p) } else { 1.0 }
    });
    let weights = weights.collect();
    let expert = Term {
        factor: mu,
        ..whole(cross_entropy(case, weights))
    };
    (vec![expert], (1.0 - mu) * it.input("grpo_loss")[0])
}

/// Imitation of a teacher where it is surer than the policy: the gate is a constant, so that the gradient
/// is that of a cross entropy.
fn sdar(it: &Feature) -> (Vec<Term>, f64) {
    let teacher = it.input("teacher_log_probs");
    let case = peers::case(it);
    let gaps = teacher.iter().zip(&case.log_probs);
    let beta = it.number("gate_beta");
    let gate = gaps.map(|(teacher, own)| 1.0 / (1.0 + (-beta * (teacher - own)).exp()));
    let gate = gate.collect();
    let mut case = cross_entropy(case, gate);
    let reduction = reduction(it.param("loss_agg_mode").as_str(), || case.tokens);
    case.config = match reduction {
        Reduction::TokenMean => case.config,
        _ => over_rows(case.config, reduction, &mut case),
    };
    // What the teacher's own log-probs add has no gradient.
    let mut of_teacher = case.clone();
    of_teacher.log_probs = teacher;
    let constant = -of_teacher.answer().loss;
    (vec![whole(case)], constant)
}

/// The answers that were rewarded, as if they were examples.
fn with_cross_entropy(it: &Feature) -> Vec<Term> {
    let mut case = peers::case(it);
    case.config = peers::nemo(it, &mut case);
    let rewards = it.input("rewards");
    let mut rewarded = peers::case(it);
    let mask = (0..rewarded.log_probs.len())
        .map(|i| rewarded.is_valid(i) && rewards[i / rewarded.tokens] > 0.0);
    rewarded.action_mask = Some(mask.collect());
    let ones = vec![1.0; rewarded.log_probs.len()];
    let examples = Term {
        factor: it.number("positive_example_nll_weight"),
        ..whole(cross_entropy(rewarded, ones))
    };
    vec![whole(case), examples]
}
