//! Errors are part of the interface: their text is fixed, and no argument makes anything panic.

use attentia_backend::{CrossEntropy, DType, Device, RngKey};
use attentia_cpu::CpuBackend;
use attentia_reference::ReferenceBackend;
use attentia_tensor::{Result, Tensor, Var, checkpoint, detect_anomaly, grad, gradcheck};

fn device() -> Device {
    Device::new(CpuBackend::new(1).unwrap())
}

fn f32s(shape: &[usize]) -> Tensor {
    Tensor::zeros(shape, DType::F32, &device_once()).unwrap()
}

/// One device for all operands: those of another one would be refused for that reason.
fn device_once() -> Device {
    static DEVICE: std::sync::OnceLock<Device> = std::sync::OnceLock::new();
    DEVICE.get_or_init(device).clone()
}

fn of(shape: &[usize], dtype: DType) -> Tensor {
    Tensor::zeros(shape, dtype, &device_once()).unwrap()
}

/// Every message, one snapshot each.
#[test]
fn messages() {
    let d = &device_once();
    let (x, y) = (f32s(&[2, 3]), f32s(&[4, 5]));
    let ids = |values: &[i64]| Tensor::from_slice(values, &[values.len()], d).unwrap();
    let consumed = || {
        let w = Var::new(f32s(&[3]))?;
        let shared = w.tensor().exp()?;
        let (first, second) = (shared.sum_all()?, shared.square()?.sum_all()?);
        first.backward()?;
        second.backward().map(drop)
    };
    let spec = CrossEntropy::default;
    let all: Vec<(&str, Result<()>)> = vec![
        ("add_shapes", (&x + &y).map(drop)),
        ("add_strided", (&x.t().unwrap() + &y).map(drop)),
        ("add_dtypes", (&x + &of(&[2, 3], DType::Bf16)).map(drop)),
        (
            "add_devices",
            (&x + &Tensor::zeros(&[2, 3], DType::F32, &Device::new(ReferenceBackend::new())).unwrap()).map(drop),
        ),
        ("exp_of_integers", of(&[3], DType::I64).exp().map(drop)),
        ("not_of_floats", x.logical_not().map(drop)),
        ("matmul_inner", x.matmul(&y).map(drop)),
        ("matmul_rank", x.matmul(&f32s(&[])).map(drop)),
        ("matmul_batch", f32s(&[2, 2, 3]).matmul(&f32s(&[3, 3, 5])).map(drop)),
        ("matmul_integers", of(&[2, 2], DType::I64).matmul(&of(&[2, 2], DType::I64)).map(drop)),
        ("reshape_count", x.reshape(&[4, 2]).map(drop)),
        ("reshape_two_unknown", x.reshape(&[-1, -1]).map(drop)),
        ("permute", x.permute(&[0, 0]).map(drop)),
        ("axis", x.sum(&[2], false).map(drop)),
        ("axis_of_a_scalar", f32s(&[]).softmax(-1).map(drop)),
        ("axis_twice", x.sum(&[1, -1], false).map(drop)),
        ("narrow", x.t().unwrap().narrow(0, 2, 2).map(drop)),
        ("index", x.i((0, 5)).map(drop)),
        ("index_range", x.i((0, 1..5)).map(drop)),
        ("index_rank", x.i((0, 0, 0)).map(drop)),
        ("squeeze", x.squeeze(0).map(drop)),
        ("broadcast_to", x.broadcast_to(&[2, 4]).map(drop)),
        ("rank", f32s(&[1; 8]).unsqueeze(0).map(drop)),
        ("too_many_elements", Tensor::zeros(&[1 << 40, 1 << 40], DType::F32, d).map(drop)),
        ("cat_of_nothing", Tensor::cat(&[], 0).map(drop)),
        ("cat_shapes", Tensor::cat(&[&x, &y], 0).map(drop)),
        ("max_of_nothing", f32s(&[0, 3]).max(&[0], false).map(drop)),
        ("topk", x.topk(4, -1, true).map(drop)),
        ("gather_index_dtype", x.gather(1, &f32s(&[2, 3])).map(drop)),
        ("gather_outside", x.gather(1, &Tensor::from_slice(&[0i64, 7], &[2, 1], d).unwrap()).map(drop)),
        ("where_condition", Tensor::where_cond(&x, &x, &x).map(drop)),
        ("masked_softmax_mask", x.masked_softmax(&of(&[4], DType::Bool), -1).map(drop)),
        ("layer_norm_weight", x.layer_norm(Some(&f32s(&[2])), None, 1e-5).map(drop)),
        ("cross_entropy_shapes", f32s(&[2, 3, 5]).cross_entropy(&ids(&[0, 1]), spec()).map(drop)),
        ("cross_entropy_target", x.cross_entropy(&ids(&[0, 3]), spec()).map(drop)),
        ("embedding_token", x.embedding(&ids(&[0, 2])).map(drop)),
        ("dropout_probability", x.dropout(1.0, RngKey::new(0)).map(drop)),
        ("from_slice", Tensor::from_slice(&[1.0f32, 2.0], &[3], d).map(drop)),
        ("to_vec_dtype", x.to_vec::<f64>().map(drop)),
        ("item", x.item::<f32>().map(drop)),
        ("dims", x.dims::<3>().map(drop)),
        ("var_of_integers", Var::new(of(&[2], DType::I64)).map(drop)),
        ("var_set", Var::new(x.clone()).unwrap().set(&y)),
        ("backward_without_gradient", x.sum_all().unwrap().backward().map(drop)),
        ("backward_of_many", Var::new(x.clone()).unwrap().tensor().backward().map(drop)),
        ("backward_twice", consumed()),
        ("grad_of_frozen", grad(&[&Var::new(f32s(&[1])).unwrap().tensor()], None, &[&x], false).map(drop)),
        ("view_mut_in_a_graph", Var::new(x.clone()).unwrap().tensor().view_mut().map(drop)),
        ("view_mut_shared", x.clone().view_mut().map(drop)),
        ("gradcheck_f32", gradcheck(|x| Ok(vec![x[0].exp()?]), std::slice::from_ref(&x), Default::default())),
        ("anomaly", detect_anomaly(|| Var::new(f32s(&[2])).unwrap().tensor().log()?.sum_all()?.backward()).map(drop)),
        ("in_a_checkpoint", checkpoint(|x| Ok(vec![x[0].matmul(&x[0])?]), std::slice::from_ref(&x)).map(drop)),
        ("in_a_module", x.matmul(&y).map(drop).map_err(|e| e.in_path("transformer.blocks.3.attn"))),
    ];
    assert!(all.len() >= 20);
    let mut settings = insta::Settings::clone_current();
    settings.set_prepend_module_to_snapshot(false);
    settings.set_omit_expression(true);
    settings.bind(|| {
        for (name, outcome) in all {
            let error = outcome.expect_err(name);
            insta::assert_snapshot!(name, format!("{:?}\n{error}", error.kind()));
        }
    });
}

#[test]
fn an_error_names_its_operation_kind_and_path() {
    let error = f32s(&[2, 3]).matmul(&f32s(&[2, 3])).unwrap_err().in_path("enc.0").in_path("enc");
    assert_eq!(error.op(), "matmul");
    assert_eq!(error.path(), Some("enc.0"), "the innermost path stays");
    let text = error.to_string();
    for part in ["matmul", "[2, 3]", "f32", "cpu", "help:", "in enc.0"] {
        assert!(text.contains(part), "{part} is missing from {text}");
    }
}
